"""Ray is imported when a job is started, and not before."""

import subprocess
import sys

import pytest

from crossrt.distributed import cluster, rerank
from crossrt.engine.errors import BackendError

from .conftest import Files


def test_crossrt_loads_nothing_of_ray() -> None:
    code = """
import sys, crossrt, crossrt.__main__, crossrt.distributed
import crossrt.distributed.job, crossrt.distributed.actors, crossrt.distributed.scorer
print([name for name in ("ray", "pyarrow", "pandas", "fsspec", "starlette") if name in sys.modules])
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "[]\n"


def test_without_ray_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["ray"] = None
from crossrt.distributed.cluster import connected
with connected("local"): pass
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'this needs Ray: pip install "crossrt[ray]"' in child.stderr


@pytest.mark.parametrize("missing", ["ray", "pyarrow"])
def test_the_extra_is_named_before_a_job_writes_its_first_file(
    missing: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None if name == missing else "found")
    with pytest.raises(BackendError, match=r'this needs Ray: pip install "crossrt\[ray\]"'):
        rerank(files.run, files.queries, files.store, files.bundle, files.folder / "out.trec")
    assert list(files.folder.iterdir()) == [files.run]
