"""Jobs on local clusters of Ray: the bytes of `crossrt rerank`, whatever is killed, and errors in words."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.data", reason="crossrt[ray] is not installed")
# Warnings of Ray about its own insides; sockets and files that it leaves to the end of the process.
pytestmark = pytest.mark.filterwarnings("ignore")

from crossrt.distributed import Summary, rerank
from crossrt.engine.errors import DataFileError, OptionError

from .conftest import Files

BLOCK, CUT = 120, 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a head without processors and two nodes of one each: each node is a raylet of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    store = 100 << 20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": store},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=store)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def job(cluster: Any) -> Callable[..., Summary]:
    """Return a function that reranks `files` on the cluster."""

    def run(files: Files, out: Path, **options: Any) -> Summary:
        options = {"ray": cluster.address, "block": BLOCK, "cut": CUT, **options}
        return rerank(files.run, files.queries, files.store, files.bundle, out, **options)

    return run


@pytest.fixture
def expected(files: Files, crossrt: Callable[..., Any]) -> Callable[..., bytes]:
    """Return a function that gives what `crossrt rerank` writes with these options."""

    def run(*options: object, name: str = "expected.trec") -> bytes:
        done = crossrt("rerank", *files.words, "--out", files.folder / name, *options)
        assert done.returncode == 0, done.stderr
        return (files.folder / name).read_bytes()

    return run


def parts(out: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of each part."""
    found = (out.parent / f"{out.name}.parts/parts").iterdir()
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found if path.name[0] != "."}


def test_a_job_writes_the_bytes_of_one_process_and_is_not_done_twice(
    files: Files, job: Callable[..., Summary], expected: Callable[..., bytes]
) -> None:
    out = files.folder / "out.trec"
    done = job(files, out)
    assert out.read_bytes() == expected()
    assert (done.pairs, done.earlier, done.written, done.failures) == (1200, 0, 1200, 0)
    before = parts(out)
    out.unlink()
    again = job(files, out, ray="127.0.0.1:1")  # no cluster is needed any more
    assert (again.earlier, parts(out), out.read_bytes()) == (1200, before, expected())
    assert again.truncation == done.truncation
    first = next(iter(before))
    (files.folder / "out.trec.parts/parts" / first).unlink()
    once_more = job(files, out)
    assert 0 < once_more.pairs - once_more.earlier <= BLOCK
    assert {name: stamp for name, stamp in parts(out).items() if name != first} == {
        name: stamp for name, stamp in before.items() if name != first
    }
    assert out.read_bytes() == expected()
    best = job(files, out, top_k=3, exact=False, tag="best")
    assert (best.earlier, best.written) == (1200, 72)
    assert out.read_bytes() == expected("--top-k", 3, "--tag", "best")


@pytest.mark.parametrize("form", ["out.tsv", "out.jsonl", "out.parquet"])
def test_other_forms_and_the_best_k(
    files: Files, job: Callable[..., Summary], expected: Callable[..., bytes], form: str
) -> None:
    from pyarrow import json as arrow_json
    from pyarrow import parquet

    rows = [line.split() for line in files.run.read_text().splitlines()]
    lines = [json.dumps({"query_id": row[0], "doc_id": row[2], "score": float(row[4])}) for row in rows]
    (files.folder / "run.jsonl").write_text("\n".join(lines))
    parquet.write_table(arrow_json.read_json(files.folder / "run.jsonl"), files.folder / "run.parquet")
    out = files.folder / form
    job(replace(files, run=files.folder / "run.parquet"), out, top_k=7, depth=20)
    assert out.read_bytes() == expected("--top-k", 7, "--depth", 20, name=f"expected{out.suffix}")


def actors(cluster: Any) -> list[int]:
    """Return the processes of the actors on the cluster: children of its raylets, with the title of their class."""
    raylets = {str(node.all_processes["raylet"][0].process.pid) for node in cluster.list_all_nodes()}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if parent in raylets and (entry / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_killed_actor_is_replaced(
    cluster: Any, files: Files, job: Callable[..., Summary], expected: Callable[..., bytes]
) -> None:
    killed: list[int] = []

    def kill(out: Path) -> None:
        while not out.exists() and len(killed) < 3:
            alive = [pid for pid in actors(cluster) if pid not in killed]
            if alive:
                os.kill(pid := random.choice(alive), signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.3)

    out = files.folder / "out.trec"
    thread = threading.Thread(target=kill, args=(out,))
    thread.start()
    job(files, out)
    thread.join()
    assert killed
    assert out.read_bytes() == expected()


def test_the_blocks_of_a_killed_node_are_scored_by_another(
    cluster: Any, files: Files, job: Callable[..., Summary], expected: Callable[..., bytes]
) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    out = files.folder / "out.trec"

    def kill() -> None:
        while not list(files.folder.glob("out.trec.parts/begun/*")):
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    job(files, out)
    thread.join()
    assert out.read_bytes() == expected()


def test_a_killed_driver_goes_on_where_it_was(
    cluster: Any, files: Files, job: Callable[..., Summary], expected: Callable[..., bytes]
) -> None:
    out = files.folder / "out.trec"
    words = ["rerank", *files.words, "--out", str(out), "--ray", cluster.address]
    words += ["--ray-block", str(BLOCK), "--ray-cut", str(CUT)]
    with subprocess.Popen([sys.executable, "-m", "crossrt", *words], stderr=subprocess.DEVNULL) as driver:
        while not list(files.folder.glob("out.trec.parts/parts/*")):
            assert driver.poll() is None
            time.sleep(0.01)
        driver.kill()
    assert not out.exists()
    before = parts(out)
    done = job(files, out)
    assert done.earlier >= BLOCK // 2
    after = parts(out)
    assert {name: after[name] for name in before} == before
    assert out.read_bytes() == expected()


def test_a_passage_that_the_store_lacks_ends_the_job_or_is_set_aside(
    cluster: Any, files: Files, crossrt: Callable[..., Any], expected: Callable[..., bytes]
) -> None:
    whole = expected()
    lines = files.run.read_text().splitlines(keepends=True)
    query = lines[0].split()[0]
    files.run.write_text("".join([lines[0], f"{query} Q0 absent 1 0 t\n", *lines[1:]]))
    out = files.folder / "out.trec"
    words = ["rerank", *files.words, "--out", out, "--ray", cluster.address, "--ray-block", BLOCK]
    stopped = crossrt(*words)
    assert stopped.returncode == 1
    assert f"crossrt: query {query}, passage absent: " in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not out.exists()
    skipped = crossrt(*words, "--on-error", "skip")
    assert skipped.returncode == 3
    assert f"1 passage(s) were set aside: {out}.errors.jsonl names them" in skipped.stderr
    assert out.read_bytes() == whole
    [failure] = [json.loads(line) for line in Path(f"{out}.errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (failure["query_id"], failure["doc_id"]) == (query, "absent")


def test_parts_of_another_bundle_or_option_are_refused(files: Files, job: Callable[..., Summary]) -> None:
    out = files.folder / "out.trec"
    job(files, out)
    with pytest.raises(DataFileError, match="holds parts of another job: max_length was None and is 40"):
        job(files, out, max_length=40)


def test_gpus_that_no_node_has_are_refused(files: Files, job: Callable[..., Summary]) -> None:
    with pytest.raises(OptionError, match="was to get 1 GPUs, and the nodes of this cluster have 0 at most"):
        job(files, files.folder / "out.trec", gpus=1)
    with pytest.raises(OptionError, match="was to get 64 processors"):
        job(files, files.folder / "out.trec", threads=64)


@pytest.mark.skipif(
    shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU, which the actor would use"
)
def test_an_actor_that_was_given_a_gpu_opens_the_bundle_on_it(
    cluster: Any, files: Files, job: Callable[..., Summary]
) -> None:
    node = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 << 20)  # Ray believes it
    try:
        with pytest.raises(DataFileError, match="device 'cuda': no NVIDIA driver with a GPU was found here"):
            job(files, files.folder / "out.trec", gpus=1)
    finally:
        cluster.remove_node(node)


def test_a_store_behind_a_url_is_fetched(
    files: Files, job: Callable[..., Summary], expected: Callable[..., bytes]
) -> None:
    out = files.folder / "out.trec"
    rerank(
        files.run,
        files.queries,
        f"file://{files.store}",
        f"file://{files.bundle}",
        out,
        parts=f"file://{files.folder}/elsewhere",
        ray="local",
    )
    assert out.read_bytes() == expected()
    assert list((files.folder / "elsewhere/parts").iterdir())
