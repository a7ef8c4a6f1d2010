"""crossrt.compatibility.patch: code that imports sentence-transformers' class gets crossrt's, with the scores that it got."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=True)


CLIENT = """
import sys
if sys.argv[2] == "patched":
    import crossrt.compatibility
    crossrt.compatibility.patch()
    crossrt.compatibility.patch()
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoder as Same
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
assert CrossEncoder is Same
model = CrossEncoder(sys.argv[1], device="cpu", trust_remote_code=True, backend="torch", model_kwargs={"torch_dtype": "float32"})
assert isinstance(model.to("cpu"), CrossEncoder)
texts = ["the river is long and green", "berlin is a city", "people live in paris"]
for score in model.predict([("where is the river", text) for text in texts]):
    print(f"{score:.3f}")
samples = [{"query": "where is the river", "positive": texts[:1], "negative": texts[1:]}]
print({name: round(float(value), 4) for name, value in CrossEncoderRerankingEvaluator(samples)(model).items()})
print("crossrt" in type(model).__module__, file=sys.stderr)
"""


def test_a_client_that_imports_the_class_gets_crossrts_and_the_same_figures(checkpoint: Path, bundle: Path) -> None:
    theirs, ours = run(CLIENT, checkpoint, "plain"), run(CLIENT, bundle, "patched")
    assert ours.stdout == theirs.stdout
    assert (theirs.stderr.split()[-1], ours.stderr.split()[-1]) == ("False", "True")


def test_a_module_that_imported_the_class_earlier_is_named(tmp_path: Path) -> None:
    (tmp_path / "framework.py").write_text("from sentence_transformers import CrossEncoder\n")
    code = "import sys; sys.path.append(sys.argv[1]); import framework; import crossrt.compatibility as c; c.patch()"
    assert "framework imported sentence-transformers' CrossEncoder already" in run(code, tmp_path).stderr


def test_an_import_that_was_blocked_is_no_module() -> None:
    run("import sys; sys.modules['tensorflow'] = None; import crossrt.compatibility as c; c.patch()")
