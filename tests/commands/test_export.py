"""`crossrt export` refuses options that it would ignore, and takes PyTorch weights before an ONNX file beside them."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from crossrt.__main__ import main
from crossrt.commands.export import _exporter_of
from crossrt.engine.bundle import resolve
from crossrt.engine.errors import CheckpointError

pytest.importorskip("torch")
from crossrt.export.checkpoint.checkpoint import Checkpoint

TREC = ("q.tsv", "p.tsv", "run.trec")


def run(patch: pytest.MonkeyPatch, *words: object) -> int:
    patch.setattr(sys, "argv", ["crossrt", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--calibrate", "p.tsv"), "--calibrate: fp16 and int8 are calibrated, and --precision names neither"),
        (("--calibrate-run", *TREC, "--precision", "bf16"), "--calibrate-run: fp16 and int8 are calibrated"),
        (("--judge", *TREC), "--judge: fp32 is not judged by how it ranks"),
        (("--keep-going",), "--keep-going: fp32 is not judged by how it ranks, and it has to pass"),
        (("--recipe", "ffn", "--precision", "fp16"), "--recipe: int8 is quantized, and --precision does not name it"),
        (("--method", "mse", "--smoothing", "0"), "--method, --smoothing: int8 is quantized"),
        (("--sample", "3"), "--sample goes with --pairs, or with --queries, --passages and --run"),
        (("--revision", "main"), "is a directory; give the branch, tag or commit of a hub id"),
        (
            ("--precision", "int8", "--pairs", "-", "--calibrate", "-"),
            "--judge and --judge-qrels can be - (standard input)",
        ),
        (("--precision", "bf16,fp16", "--tensorrt"), "no engine is built in bf16; one or more of fp32, fp16, int8"),
        (("--workspace", "1"), "options of building engines (--workspace to --unfused-attention) go with --tensorrt"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    words: tuple[str, ...], said: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, "export", checkpoint, tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("--calibrate", "p.tsv"),
        ("--calibrate-run", *TREC),
        ("--judge", *TREC),
        ("--judge-qrels", "qrels"),
        ("--recipe", "full"),
        ("--method", "mse"),
        ("--smoothing", "0.5"),
        ("--keep-going",),
        ("--pairs", "p.tsv"),
        ("--queries", "q.tsv"),
        ("--sample", "3"),
    ],
)
def test_an_onnx_file_that_is_taken_as_it_is_goes_with_no_options_of_an_export(
    words: tuple[str, ...], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, "export", checkpoint, tmp_path / "out", "--exporter", "existing", *words) == 2
    assert f"{words[0]}: an ONNX file that is there already is taken as it is" in capsys.readouterr().err


@pytest.mark.parametrize(
    "weights",
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json", "adapter_model.safetensors"],
)
def test_weights_come_before_an_onnx_file(weights: str, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").write_bytes(b"")
    assert _exporter_of(tmp_path) == "existing"
    (tmp_path / weights).write_bytes(b"")
    assert _exporter_of(tmp_path) == "crossrt"


@pytest.mark.parametrize("command", ["export", "parity"])
def test_the_base_model_of_an_adapter_is_fetched_with_the_commands_options(
    command: str, bundle: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def read(path: Path, *, activation: str | None = None, hub: dict[str, Any]) -> Checkpoint:
        asked.append((path, hub))
        raise CheckpointError("enough")

    fetched = shutil.copytree(checkpoint, tmp_path / "fetched")
    monkeypatch.setattr(resolve, "fetched_checkpoint", lambda *_, **__: (fetched, "0123"))
    monkeypatch.setattr(Checkpoint, "read", read)
    places = ("someone/adapter", tmp_path / "out") if command == "export" else (bundle, "--against", "someone/adapter")
    options = ("--token", "secret", "--cache-folder", tmp_path, "--local-files-only", "--revision", "main")
    assert run(monkeypatch, command, *places, *options) == 1
    assert asked == [(fetched, {"token": "secret", "cache_folder": tmp_path, "local_files_only": True})]
