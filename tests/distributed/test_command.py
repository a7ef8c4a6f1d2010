"""The options of `crossrt rerank --ray`, before Ray is needed."""

import sys
from typing import Any

import pytest

from crossrt.__main__ import main
from crossrt.distributed import rerank
from crossrt.engine.errors import OptionError

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


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"actors": 0}, "actors=0: give a whole number from 1"),
        ({"threads": 0}, "threads=0: give a whole number from 1"),
        ({"depth": -1}, "depth=-1: give a whole number from 1"),
        ({"top_k": -1}, "top_k=-1: give a whole number from 1"),
        ({"gpus": -1}, "gpus=-1: give 0 or more"),
        ({"tag": "two words"}, "--tag 'two words': give one word"),
    ],
)
def test_the_function_refuses_what_the_command_line_refuses(files: Files, option: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        rerank(files.run, files.queries, files.store, files.bundle, files.folder / "out", ray="127.0.0.1:1", **option)


@pytest.mark.parametrize("name", ["run", "queries"])
def test_the_function_does_not_replace_a_file_that_it_reads(files: Files, name: str) -> None:
    given = {"run": files.run, "queries": files.queries}
    before = given[name].read_bytes()
    link = files.folder / "link.trec"
    link.symlink_to(given[name])
    with pytest.raises(OptionError, match=f"is also read as {name}, and would be replaced"):
        rerank(**given, store=files.store, bundle=files.bundle, out=link)
    assert given[name].read_bytes() == before


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_scored(files: Files) -> None:
    pytest.importorskip("ray", reason="crossrt[ray] is not installed")
    for out, message in {"none/out": "in a directory that does not exist", ".": "is a directory"}.items():
        with pytest.raises(OptionError, match=message):
            rerank(
                files.run,
                files.queries,
                files.store,
                files.bundle,
                files.folder / out,
                parts=files.folder / "parts",
                ray="127.0.0.1:1",  # nobody answers there
            )


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
