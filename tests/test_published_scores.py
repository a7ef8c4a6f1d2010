"""The real checkpoints give the scores that others published for them.

Needs the network (`pytest -m network`) or downloaded checkpoints (`pytest --checkpoints DIR`, with DIR/<organisation>/
<name> or DIR/<name>). tests/published_scores.json has every score with its source.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt import CrossEncoder

PUBLISHED = json.loads((Path(__file__).parent / "published_scores.json").read_text(encoding="utf-8"))["sets"]


def holds(published: dict[str, Any], scores: np.ndarray[Any, Any]) -> bool:
    """Tell whether scores agree with published ones: within `atol`, or on the best passage where there is none."""
    expected = np.array([score for _, _, score in published["pairs"]])
    if published["atol"] is None:
        return int(np.argmax(scores)) == int(np.argmax(expected))
    return bool(np.abs(scores - expected).max() <= published["atol"])


def source_of(checkpoint: str, directory: Path | None) -> str:
    """Return where to read a checkpoint: below the directory, under the hub's name with or without `L-6`'s hyphen."""
    if directory is None:
        return checkpoint
    name = checkpoint.rsplit("/", 1)[-1]
    names = (checkpoint, name, checkpoint.replace("-L", "-L-"), name.replace("-L", "-L-"))
    for candidate in names:
        if (directory / candidate).is_dir():
            return str(directory / candidate)
    pytest.skip(f"{directory} holds no {name}")


@pytest.mark.network
@pytest.mark.parametrize(
    "published", PUBLISHED, ids=lambda p: f"{p['published_as'].split('/')[-1][:40]}-{p['activation']}"
)
def test_a_published_checkpoint_gives_its_published_scores(
    published: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("torch")
    checkpoints = published["checkpoint"] if isinstance(published["checkpoint"], list) else [published["checkpoint"]]
    got = {}
    for checkpoint in checkpoints:
        with CrossEncoder(source_of(checkpoint, request.config.getoption("checkpoints"))) as model:
            got[checkpoint] = model.predict(
                [(query, passage) for query, passage, _ in published["pairs"]], activation_fn=published["activation"]
            )
    assert any(holds(published, scores) for scores in got.values()), (published["source"], got)


@pytest.mark.parametrize(
    "published", PUBLISHED, ids=lambda p: f"{p['published_as'].split('/')[-1][:40]}-{p['activation']}"
)
def test_published_scores_are_complete_and_another_score_does_not_hold(published: dict[str, Any]) -> None:
    expected = np.array([score for _, _, score in published["pairs"]])
    assert published["source"]
    assert holds(published, expected)
    assert not holds(published, -expected)
    if published["atol"] is not None:
        assert not holds(published, expected + 2 * published["atol"])
