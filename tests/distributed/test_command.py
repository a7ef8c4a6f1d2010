"""The options of `crossrt rerank --ray`, before Ray is needed."""

import sys
from typing import Any

import pytest

from crossrt.__main__ import main

from .conftest import Files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray-actors", "2"], "--ray-actors goes with --ray"),
        (["--on-error", "skip"], "--on-error goes with --ray"),
        (["--ray", "head:port"], "give local, auto, or host:port"),
        (["--ray", "local", "--on-error", "never"], "give stop or skip"),
        (["--ray", "local", "--first", "x", "--keep", "3"], "--ray takes passages by --store, and no --first"),
        (["--ray", "local", "--exact"], "give --top-k"),
        (["--ray", "local", "--ray-gpus", "1"], "give GPUs for cuda, and none for cpu"),
    ],
)
def test_options_that_are_not_allowed(
    files: Files, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ["crossrt", "rerank", *files.words, "--out", str(files.folder / "out"), *options]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_standard_output_needs_a_folder_of_parts(files: Files, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["crossrt", "rerank", *files.words, "--out", "-", "--ray", "local"])
    with pytest.raises(SystemExit):
        main()
    assert "name one with --ray-parts" in capsys.readouterr().err


def test_a_store_that_is_not_there_is_named_with_what_makes_one(
    files: Files, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = [word if word != str(files.store) else str(files.folder / "none.store") for word in files.words]
    monkeypatch.setattr(
        sys, "argv", ["crossrt", "rerank", *words, "--out", str(files.folder / "out"), "--ray", "local"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "none.store is not a store of prepared passages; make one with: crossrt prepare" in capsys.readouterr().err
