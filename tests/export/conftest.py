"""Bundles with INT8 models, which take seconds to make and are shared."""

from pathlib import Path

import pytest

from crossrt import Bundle
from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer

DEMO = Path(__file__).resolve().parents[2] / "demo"


@pytest.fixture(scope="session")
def calibration() -> CalibrationSet:
    """A hundred queries of the built-in pairs: a fifth of them judge."""
    pairs = CalibrationSet.builtin().pairs
    queries = set(sorted({query for query, _ in pairs})[:100])
    return CalibrationSet.sample([pair for pair in pairs if pair[0] in queries], source="built-in")


@pytest.fixture(scope="session")
def exported(calibration: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo checkpoint, which is really trained, with its INT8 models, for CPUs and for GPUs."""
    from crossrt.export.checkpoint.checkpoint import Checkpoint
    from crossrt.export.export import export_bundle

    out = tmp_path_factory.mktemp("int8") / "bundle"
    return export_bundle(
        Checkpoint.read(DEMO / "checkpoint"),
        out,
        precisions=[Precision.FP16, Precision.INT8],
        calibration=calibration,
    )[0]


@pytest.fixture(scope="session")
def encoder() -> PairTokenizer:
    return PairTokenizer.from_file(DEMO / "checkpoint/tokenizer.json", max_length=160)
