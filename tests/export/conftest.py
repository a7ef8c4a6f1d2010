"""Bundles with INT8 models, which take seconds to make and are shared."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crossrt import Bundle, CrossEncoder
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


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no picture of what each part loses in INT8, which takes a second or more."""
    monkeypatch.setattr("crossrt.export.steps.int8.can_draw", lambda: False)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimize INT8's native weights in a tenth of the steps, which saves seconds. With random weights the result is as good."""
    monkeypatch.setattr("crossrt.export.precision.smoothing.STEPS", 15)


@dataclass(frozen=True, kw_only=True)
class WatchedExport:
    """An export with the files that it hashed and the models that it opened, by precision and backend."""

    bundle: Bundle
    reports: tuple[Any, ...]
    hashed: list[str]
    opened: list[tuple[str, str]]


@pytest.fixture(scope="session")
def watched_export(calibration: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> WatchedExport:
    """The demo checkpoint, which is really trained, with its FP16 and INT8 models, for CPUs and for GPUs."""
    from crossrt.export.bundle import builder
    from crossrt.export.checkpoint.checkpoint import Checkpoint
    from crossrt.export.export import export_bundle
    from crossrt.export.parity import judge

    hashed: list[str] = []
    opened: list[tuple[str, str]] = []

    def sha256_of(path: Path, whole: Callable[[Path], str] = builder.sha256_of) -> str:
        hashed.append(path.name)
        return whole(path)

    def model(bundle: Bundle, whole: Callable[..., CrossEncoder] = judge.CrossEncoder, **options: Any) -> CrossEncoder:
        opened.append((options["precision"].value, options["backend"]))
        return whole(bundle, **options)

    out = tmp_path_factory.mktemp("int8") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "sha256_of", sha256_of)
        patch.setattr(judge, "CrossEncoder", model)
        bundle, reports = export_bundle(
            Checkpoint.read(DEMO / "checkpoint"),
            out,
            precisions=[Precision.FP16, Precision.INT8],
            calibration=calibration,
        )
    return WatchedExport(bundle=bundle, reports=reports, hashed=hashed, opened=opened)


@pytest.fixture(scope="session")
def exported(watched_export: WatchedExport) -> Bundle:
    return watched_export.bundle


@pytest.fixture(scope="session")
def encoder() -> PairTokenizer:
    return PairTokenizer.from_file(DEMO / "checkpoint/tokenizer.json", max_length=160)
