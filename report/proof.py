"""`Proof`: the parity reports and the calibration that a bundle holds."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.bundle.bundle import Bundle
from ..engine.bundle.manifest import MANIFEST
from ..engine.files.digests import sha256_of
from .fields import checked_fields, fields_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a parity report allowed."""

    max_abs: float
    top10_overlap: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """How the lists of a judging set were ranked, in a parity report: overlap with its 95 % interval."""

    queries: int
    pairs: int
    top10_overlap: float
    top10_overlap_low: float
    top10_overlap_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The figures of a bundle's parity report. The texts of its worst pairs are left where they are."""

    precision: str
    backend: str
    pairs: int
    max_abs_diff: float
    mean_abs_diff: float
    top10_overlap: float | None
    tolerance: Limits
    ranking: Lists | None = None
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A part of the model alone in 8 bits: |logit - FP32|, its share of the multiply-adds, and whether it went back."""

    unit: str
    mean_abs_diff: float
    max_abs_diff: float
    share: float
    restored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a bundle's calibration.int8.json says. `drawing` is the SVG that the export drew beside it, if it did."""

    recipe: str
    eight_bit_share: float
    sensitivities: Sequence[Unit]
    drawing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a bundle says of itself. `sha256` is its manifest's, by which results name it."""

    model: str
    sha256: str
    tools: Mapping[str, str]
    parities: Sequence[Parity]
    calibration: Calibration | None

    @classmethod
    def read(cls, path: Path) -> "Proof":
        """Read a bundle's. Raises BundleError for a bundle that is not whole, DataFileError for a report that is none."""
        bundle = Bundle.open(path)
        names = [file.name for file in bundle.manifest.files]
        calibration = None
        if "calibration.int8.json" in names:
            calibration = checked_fields(
                Calibration, path / "calibration.int8.json", fields_of(path / "calibration.int8.json")
            )
            if "calibration.int8.svg" in names:
                drawing = (path / "calibration.int8.svg").read_text(encoding="utf-8")
                calibration = dataclasses.replace(calibration, drawing=drawing)
        reports = (f"parity.{precision}.json" for precision in bundle.manifest.models)
        return cls(
            model=str(bundle.manifest.source.get("id", path.name)),
            sha256=sha256_of(path / MANIFEST),
            tools=bundle.manifest.tools,
            parities=[checked_fields(Parity, path / name, fields_of(path / name)) for name in reports if name in names],
            calibration=calibration,
        )
