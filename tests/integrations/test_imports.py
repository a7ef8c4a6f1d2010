"""The frameworks are imported on use only."""

import subprocess
import sys
from pathlib import Path

FRAMEWORKS = (
    "langchain_core",
    "llama_index",
    "haystack",
    "pyterrier",
    "rerankers",
    "rank_llm",
    "txtai",
    "pyspark",
    "pyarrow",
    "onnx",
    "tritonclient",
    "triton_python_backend_utils",
)
ADAPTERS = ("langchain", "llama_index", "haystack", "pyterrier", "rerankers", "rankllm", "txtai", "spark")


def test_crossrt_and_its_integrations_load_no_framework() -> None:
    code = f"""
import sys, crossrt, crossrt.integrations, crossrt.integrations.model, crossrt.compatibility
import crossrt.__main__, crossrt.integrations.triton.repository
crossrt.CrossEncoder
print([name for name in {(*FRAMEWORKS, "sentence_transformers", "pandas", "torch")} if name in sys.modules])
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "[]\n"


def test_every_adapter_is_short_and_has_its_test_and_extra() -> None:
    repository = Path(__file__).resolve().parents[2]
    extras = (repository / "pyproject.toml").read_text(encoding="utf-8")
    for name in ADAPTERS:
        assert len((repository / f"integrations/{name}.py").read_text(encoding="utf-8").splitlines()) <= 80
        assert (repository / f"tests/integrations/test_{name}.py").is_file()
        assert f"\n{name.replace('_', '-')} = [" in extras
