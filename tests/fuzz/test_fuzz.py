"""A short, deterministic run of each kind of input; and crashes are found and reported. `python -m tests.fuzz` runs longer."""

from pathlib import Path

import pytest

from crossrt.engine.kernels.support import why_not_native
from crossrt.engine.native_library import native_library

from .kinds import KINDS
from .run import run

INPUTS = {
    "texts": 6400,
    "tokenizers": 400,
    "manifests": 800,
    "native_weights": 300,
    "stores": 300,
    "trec_files": 2000,
}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_accepted_or_refused_in_words(kind: str) -> None:
    if kind == "native_weights" and why_not_native():
        pytest.skip(why_not_native())
    if kind == "texts" and native_library("native_wordpiece") is None:
        pytest.skip("this installation has no compiled tokenization")
    result = run(kind, seed=1, inputs=INPUTS[kind], failures=1)
    assert not result.failures, result.failures[0]
    assert result.inputs >= INPUTS[kind]
    assert result.accepted > 0, "every input is broken before it gets anywhere"
    assert kind == "texts" or result.refused > 0, "no input is broken"


def test_an_input_that_takes_the_process_down_is_told_with_how_to_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The child is another interpreter; a file in its working directory changes what it does.
    (tmp_path / "tests").mkdir()
    monkeypatch.setattr("tests.fuzz.run.REPOSITORY", tmp_path)
    (tmp_path / "tests/fuzz.py").write_text(
        "import os, sys\n"
        "notes, first = (sys.argv[sys.argv.index(name) + 1] for name in ('--notes', '--first'))\n"
        "with open(notes, 'r+b') as file:\n"
        "    for number in (int(first) + 5, 3, 2):\n"
        "        file.write(number.to_bytes(8, 'little'))\n"
        "if first == '0':\n"
        "    os.abort()\n"
    )
    result = run("stores", seed=7, inputs=100)
    (failure,) = result.failures
    assert "call 5 of stores ended with -6: python -m tests.fuzz stores --seed 7 --first 5" in failure
    assert (result.accepted, result.refused) == (6, 4), "it goes on after the one that failed"
