"""Processes forked from a process with an open model score, or raise an error that says why not, and they end."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from crossrt.engine.backends.registry import installed_backends

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

PREAMBLE = """
import json, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")  # Python warns of forks in a process with threads, which is what these tests do
import numpy as np
from crossrt import CrossEncoder
from crossrt.engine.batching.batch import Batch
bundle, backend = sys.argv[1:3]
pairs = [(f"river {number}", "the river is long " * (1 + number % 5)) for number in range(24)]
model = CrossEncoder(bundle, backend=backend, device="cpu", threads=2)
expected = model.predict(pairs).tolist()
model.run(Batch.padded(model.encode(pairs[:1]), np.arange(1), 0))  # a session of two threads; a fork inherits only the caller's

def in_fork(work):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, json.dumps(work()).encode())
        sys.exit(7)  # a normal exit, in which Python and the libraries clean up
    os.close(write)
    deadline = time.monotonic() + 60
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            said = os.read(read, 1 << 16)
            os.close(read)
            return os.waitstatus_to_exitcode(status), json.loads(said or b"null")
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hangs", None
        time.sleep(0.002)

def scored():
    try:
        return model.predict(pairs).tolist() == expected
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


def answers(program: str, bundle: Path, backend: str) -> Any:
    command = [sys.executable, "-c", PREAMBLE + program, str(bundle), backend]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


BACKENDS = ["onnxruntime", "openvino", "native"]


@pytest.fixture(scope="module")
def native_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from crossrt.export.checkpoint.checkpoint import Checkpoint
    from crossrt.export.export import export_bundle

    out = tmp_path_factory.mktemp("bundles") / "bundle"
    export_bundle(Checkpoint.read(checkpoint), out)
    return out


@pytest.fixture(params=BACKENDS)
def opened(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A bundle and a backend that runs it here."""
    backend = str(request.param)
    if backend not in installed_backends():
        pytest.skip(f"{backend} is not installed, or cannot run on this processor")
    return request.getfixturevalue("native_bundle" if backend == "native" else "bundle"), backend


def test_a_fork_ends_by_itself_whether_or_not_it_scored(opened: tuple[Path, str]) -> None:
    assert answers("print(json.dumps([in_fork(lambda: 'idle') for _ in range(3)]))", *opened) == [[7, "idle"]] * 3
    for status, said in answers("print(json.dumps([in_fork(scored) for _ in range(3)]))", *opened):
        assert status == 7
        if opened[1] == "openvino":
            assert said.startswith("BackendError: OpenVINO was loaded before this process forked")
            assert "docs/processes.md" in said
        else:
            assert said is True


def test_a_fork_of_a_process_with_openvino_does_not_run_inherited_destructors(bundle: Path) -> None:
    pytest.importorskip("openvino")
    program = """
import ctypes
libc = ctypes.CDLL(None)
libc.on_exit(libc.pause, None)  # stands for a destructor that waits for a lock that no thread releases
def work():
    libc.printf(b"text in a buffer of C ")
    return "idle"
sys.stdout.write(json.dumps([in_fork(work), in_fork(scored)[0]]))
sys.stdout.flush()
os._exit(0)
"""
    command = [sys.executable, "-c", PREAMBLE.replace("+ 60", "+ 5") + program, str(bundle), "openvino"]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert child.returncode == 0, child.stderr
    assert child.stdout == 'text in a buffer of C [[7, "idle"], 7]'


def test_a_fork_beside_threads_that_compute_ends_and_the_parent_goes_on(opened: tuple[Path, str]) -> None:
    program = """
stop = threading.Event()
wrong = []
def compute():
    while not stop.is_set():
        if not scored() is True:
            wrong.append(1)
threads = [threading.Thread(target=compute) for _ in range(2)]
for thread in threads: thread.start()
found = [in_fork(scored)[0] for _ in range(6)]
stop.set()
for thread in threads: thread.join()
print(json.dumps([found, len(wrong), scored()]))
"""
    assert answers(program, *opened) == [[7] * 6, 0, True]


def test_a_model_of_the_forks_own_scores_where_the_parent_opened_none(bundle: Path) -> None:
    pytest.importorskip("openvino")
    program = """
import os, sys
from crossrt import CrossEncoder
child = os.fork()
if not child:
    with CrossEncoder(sys.argv[1], backend="openvino", device="cpu") as model:
        sys.exit(0 if model.predict([("river", "the river is long")]).shape == (1,) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-c", program, str(bundle)]
    assert subprocess.run(command, timeout=120, check=False).returncode == 0


def test_a_fork_waits_until_no_session_is_being_opened_or_closed(bundle: Path) -> None:
    program = """
import os, sys, threading, time
from crossrt import CrossEncoder
from crossrt.engine.selection.execution_config import CpuConfig
opening, done = threading.Event(), []
open_session = CpuConfig.open
class Slow:
    def __init__(self, session): self.session = session
    def __getattr__(self, name): return getattr(self.session, name)
    def close(self):
        opening.set(); time.sleep(0.3); self.session.close(); done.append("closed")
def slowly(self, *words, **named):
    opening.set(); time.sleep(0.3); session = open_session(self, *words, **named); done.append("opened")
    return Slow(session)
CpuConfig.open = slowly
made = []
def run(work):
    opening.clear()
    done.clear()
    thread = threading.Thread(target=work)
    thread.start()
    opening.wait()
    child = os.fork()
    if not child:
        os._exit(len(done))
    thread.join()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(run(lambda: made.append(CrossEncoder(sys.argv[1], backend="onnxruntime", device="cpu"))), run(lambda: made[0].close()))
"""
    command = [sys.executable, "-W", "ignore", "-c", program, str(bundle)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert child.stdout.split() == ["1", "1"]


@pytest.mark.parametrize(("more", "said"), [("", "destroyed"), ("keep_for_ever(inherited)", "")])
def test_what_is_kept_for_ever_is_not_destroyed_when_python_ends(more: str, said: str) -> None:
    program = f"""
import os
from crossrt.engine.process.forks import keep_for_ever
class Noted:
    def __del__(self, write=os.write): write(1, b"destroyed")
inherited = [Noted()]
{more}
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout == said


APPLICATION = """
import json, os
import numpy as np
from crossrt import CrossEncoder
from crossrt.engine.batching.batch import Batch

def open_model():
    model = CrossEncoder({bundle!r}, backend={backend!r}, device="cpu", threads=2)
    pair = model.encode([("river", "the river is long")])
    model.run(Batch.padded(pair, np.arange(1), 0))  # a session of two threads; a fork inherits only the caller's
    return model

model = None if {backend!r} == "openvino" else open_model()

def application(environment, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), model.predict([("river", "the river is long")]).tolist()]).encode()]
"""
OPENED_BY_WORKERS = """
def post_fork(server, worker):
    import service
    service.model = service.open_model()
"""
"""The recipe of docs/processes.md for backends that cannot be opened before the fork."""


@pytest.mark.skipif(find_spec("gunicorn") is None, reason="gunicorn is not installed")
def test_workers_of_gunicorn_with_preload_score_and_stop_at_once(opened: tuple[Path, str], tmp_path: Path) -> None:
    bundle, backend = opened
    (tmp_path / "service.py").write_text(APPLICATION.format(bundle=str(bundle), backend=backend))
    (tmp_path / "gunicorn.conf.py").write_text(OPENED_BY_WORKERS if backend == "openvino" else "")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}", "--graceful-timeout", "30"]
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "gunicorn", *options, "service:application"]
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
        try:
            scored: dict[int, list[float]] = {}
            deadline = time.monotonic() + 90
            while len(scored) < 2:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                        process, scores = json.loads(answer.read())
                    scored[process] = scores
                except OSError:  # not up yet
                    time.sleep(0.1)
            assert len({tuple(scores) for scores in scored.values()}) == 1
            begin = time.monotonic()
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=25)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # workers that hang, too
            server.wait()
    said = (tmp_path / "log").read_text()
    assert server.returncode == 0, said
    # A worker that hangs is killed after --graceful-timeout; the margin is for a busy machine.
    assert time.monotonic() - begin < 20, said
    assert "SIGKILL" not in said


def test_a_fork_while_another_thread_counts_what_was_cut_scores(opened: tuple[Path, str]) -> None:
    program = """
from crossrt.engine.text.truncation import Truncation

held, leave, add, parent = threading.Event(), threading.Event(), Truncation.__add__, os.getpid()

def slowly(self, other):
    if os.getpid() == parent and threading.current_thread().name == "counts":
        held.set()
        leave.wait()
    return add(self, other)

Truncation.__add__ = slowly
thread = threading.Thread(target=model.predict, args=(pairs,), name="counts")
thread.start()
held.wait()
status, found = in_fork(scored)
leave.set()
thread.join()
print(json.dumps([status, found]))
"""
    status, found = answers(program, *opened)
    assert status == 7
    assert found is True or (opened[1] == "openvino" and "BackendError" in found)


def test_a_fork_does_not_open_the_bundle_that_took_the_place_of_the_opened_one(
    bundle: Path, make_bundle: Any, tmp_path: Path
) -> None:
    place = shutil.copytree(bundle, tmp_path / "model")
    program = f"""
os.rename(bundle, bundle + ".old")
os.rename({str(shutil.copytree(make_bundle(seed=7), tmp_path / "other"))!r}, bundle)
print(json.dumps([*in_fork(scored), scored()]))
"""
    status, found, kept = answers(program, place, "onnxruntime")
    assert status == 7
    assert "ReplacedError" in found
    assert "replaced by another bundle since it was opened" in found
    assert kept is True
