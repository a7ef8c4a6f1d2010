"""No library that crossrt imports sends telemetry: no host is looked up, and nothing is written to the home directory."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[3]
REPORTING = {"onnxruntime", "openvino", "huggingface_hub", "transformers", "sentence_transformers", "optimum"}
CHOICES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
OF_A_BUILD = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_RUNNING_UNIT_TESTS")
"""Where one of these is set, some of the libraries stay silent by themselves."""

PROGRAM = """
import json, os, sys, time
seen = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "urllib.Request", "os.fork"):
        os.write(seen, f"{event} {arguments!r}\\n".encode())
sys.addaudithook(watch)
from crossrt import CrossEncoder
with CrossEncoder(sys.argv[2], backend=sys.argv[3], device="cpu") as model:
    model.predict([("river", "the river is long")])
    assert model.backend == sys.argv[3]
time.sleep(0.5)
"""


def silent_environment(home: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in (*CHOICES, *OF_A_BUILD)}
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "CROSSRT_CACHE": str(home / ".cache/crossrt")}
    return environment | own


def traceable() -> bool:
    """Tell whether strace is installed and allowed here, as it is not in every container."""
    return (
        shutil.which("strace") is not None
        and subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode == 0
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_scoring_looks_no_host_up_and_writes_nothing_into_the_home_directory(
    bundle: Path, backend: str, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    home, seen = tmp_path / "home", tmp_path / "seen"
    home.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(seen), str(bundle), backend]
    traced = tmp_path / "traced"
    if traceable():  # strace also sees what native code does
        command = ["strace", "-f", "-qq", "-e", "trace=connect", "-o", str(traced), *command]
    subprocess.run(command, check=True, timeout=120, env=silent_environment(home))
    assert seen.read_text() == ""
    own = home / ".cache/crossrt"
    written = [path for path in home.rglob("*") if path != own.parent and not path.is_relative_to(own)]
    assert written == []
    if traced.is_file():
        assert not re.findall(r"AF_INET.*", traced.read_text())


def test_every_import_of_a_reporting_library_is_made_with_telemetry_off() -> None:
    folders = [file.parent for file in [*PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("*/*/__init__.py")]]
    files = [file for folder in folders for file in folder.glob("*.py")]
    assert PACKAGE / "engine/backends/onnxruntime_cpu.py" in files
    bare = []
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        guarded = {
            id(inner)
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and ast.unparse(block.items[0]) == "telemetry_off()"
            for inner in ast.walk(block)
        }
        for node in ast.walk(tree):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if id(node) not in guarded and REPORTING & {name.partition(".")[0] for name in names}:
                bare.append(f"{file.relative_to(PACKAGE)}, line {node.lineno}")
    assert bare == []


def test_a_choice_of_the_user_holds_and_a_library_that_was_there_stays(tmp_path: Path) -> None:
    program = """
import json, os, sys, types
there = sys.modules["openvino_telemetry"] = types.ModuleType("openvino_telemetry")
from crossrt.engine.process.telemetry import telemetry_off
with telemetry_off():
    try:
        import openvino_telemetry
    except ImportError:
        hidden = True
print(json.dumps([hidden, sys.modules["openvino_telemetry"] is there, os.environ["ORT_DISABLE_TELEMETRY"],
    os.environ["HF_HUB_DISABLE_TELEMETRY"]]))
"""
    environment = silent_environment(tmp_path) | {"ORT_DISABLE_TELEMETRY": "0"}
    child = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment)
    assert json.loads(child.stdout) == [True, True, "0", "1"]
