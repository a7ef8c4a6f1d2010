"""Models are written whole, with a checked copy of the bundle, and only where nothing is in the way."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossrt import Bundle
from crossrt.__main__ import main
from crossrt.engine.errors import BundleError, OptionError
from crossrt.export.existing.existing import bundle_from_onnx
from crossrt.integrations.triton.config import Instances
from crossrt.integrations.triton.repository import write_onnxruntime_model, write_python_model

WRITE = """
import sys
from pathlib import Path
from crossrt import Bundle
from crossrt.integrations.triton.config import Instances
from crossrt.integrations.triton.repository import write_python_model
try:
    write_python_model(Bundle.open(sys.argv[1]), Path(sys.argv[2]), "m", Instances(), {})
except OSError as error:
    print(f"{error.strerror}: {error.filename}")
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs `crossrt triton` and returns its exit status."""

    def run(*words: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["crossrt", "triton", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_model_is_self_contained(run: Callable[..., int], bundle: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(bundle, tmp_path / "models", "--precision", "fp32", "--threads", "2") == 0
    model = tmp_path / "models/bundle"
    held = [f"1/bundle/{name}" for name in files(bundle)]
    assert files(model) == sorted([*held, "1/model.py", "config.pbtxt"])
    Bundle.open(model / "1/bundle", verify=True)
    assert [path for path in model.rglob("*") if path.is_symlink()] == []
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["bundle"]
    said = capsys.readouterr().out
    assert said.startswith(f"{model}: ")
    assert said.endswith(f"start Triton with --model-repository {tmp_path / 'models'}\n")


def test_a_link_leaves_the_bundle_where_it_is(run: Callable[..., int], bundle: Path, tmp_path: Path) -> None:
    assert run(bundle, tmp_path, "--name", "m", "--link") == 0
    assert (tmp_path / "m/1/bundle").readlink() == bundle.resolve()
    assert files(tmp_path / "m") == ["1/model.py", "config.pbtxt"]


@pytest.mark.parametrize("link", [False, True])
def test_the_bundle_is_taken_from_where_it_was_opened(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    monkeypatch.chdir(bundle.parent)
    opened = Bundle.open(bundle.name)
    monkeypatch.chdir("/")
    model = write_python_model(opened, tmp_path, "m", Instances(), {}, link=link)
    assert Bundle.open(model / "1/bundle", verify=True).manifest == opened.manifest


def test_models_lie_beside_one_another_and_none_is_overwritten(
    run: Callable[..., int], bundle: Path, tmp_path: Path, capsys: Any
) -> None:
    for name in ("one", "two"):
        assert run(bundle, tmp_path, "--name", name, "--link") == 0
    assert run(bundle, tmp_path, "--name", "two", "--link") == 1
    assert f"{tmp_path}/two is already there; remove it, or give another --name" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "..", ".m", "a/b", "a b", "modèle", "-m"])
def test_a_name_that_triton_or_its_paths_do_not_take_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="is no name for a model of Triton"):
        write_python_model(Bundle.open(bundle), tmp_path / "models", name, Instances(), {})
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "holds no fp16 model"),
        ({"precision": "half"}, "unknown precision 'half'"),
        ({"backend": "torch"}, "unknown backend 'torch'; one of auto, onnxruntime, openvino, native, tensorrt"),
        ({"threads": 0}, "threads=0: give a whole number from 1"),
        ({"max_length": 2}, "max_length"),
        ({"relevant_label": "relevent"}, "relevent"),
    ],
)
def test_options_with_which_the_bundle_would_not_open_are_refused(
    bundle: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((OptionError, BundleError), match=message):
        write_python_model(Bundle.open(bundle), tmp_path, "m", Instances(), options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("onnxruntime", [False, True])
def test_an_altered_file_is_not_copied(bundle: Path, tmp_path: Path, onnxruntime: bool) -> None:
    pytest.importorskip("onnx")
    shutil.copytree(bundle, tmp_path / "bundle")
    graph = tmp_path / "bundle/onnx/model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    opened = Bundle.open(tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"onnx/model\.onnx was altered"):
        if onnxruntime:
            write_onnxruntime_model(opened, tmp_path / "models", "m", Instances())
        else:
            write_python_model(opened, tmp_path / "models", "m", Instances(), {})
    assert list((tmp_path / "models").iterdir()) == []


def test_weights_beside_a_graph_come_along_under_any_name(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    source = Path(shutil.copytree(checkpoint, tmp_path / "source"))
    model = onnx.load(bundle / "onnx/model.onnx")
    onnx.save_model(model, source / "model.onnx", save_as_external_data=True, location="weights.bin")
    made = bundle_from_onnx(source, tmp_path / "bundle")
    written = write_onnxruntime_model(made, tmp_path / "models", "m", Instances())
    assert files(written) == ["1/model.onnx", "1/weights.bin", "config.pbtxt"]
    assert (written / "1/weights.bin").read_bytes() == (source / "weights.bin").read_bytes()


def test_a_repository_that_cannot_be_written_is_named(as_another_user: list[str], bundle: Path, tmp_path: Path) -> None:
    words = [*as_another_user, sys.executable, "-c", WRITE, str(bundle), str(tmp_path / "models")]
    child = subprocess.run(words, capture_output=True, text=True, check=False)
    assert child.stdout == f"Permission denied: {tmp_path}/models\n", child.stderr


def test_options_of_the_other_backend_are_refused(
    run: Callable[..., int], bundle: Path, tmp_path: Path, capsys: Any
) -> None:
    for option in ("--link", "--backend=native", "--max-length=20", "--relevant-label=0", "--trust-engines"):
        assert run(bundle, tmp_path, "--onnxruntime", option) == 2
        assert "--onnxruntime has a copy of the graph" in capsys.readouterr().err


def test_a_graph_has_no_bf16(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(OptionError, match="bf16 has no ONNX graph of its own: give fp32, fp16 or int8"):
        write_onnxruntime_model(Bundle.open(bundle), tmp_path, "m", Instances(), precision="bf16")


def test_without_onnx_the_extra_is_named(
    run: Callable[..., int], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("crossrt.commands.shared.requirements.find_spec", lambda name: None)
    assert run(bundle, tmp_path, "--onnxruntime") == 1
    assert 'this needs onnx: pip install "crossrt[triton]"' in capsys.readouterr().err
