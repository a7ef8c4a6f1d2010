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
    """The tolerance of a parity report."""

    max_abs: float
    top10_overlap: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """How a judging set's lists are ranked, in a parity report: the top-10 overlap with its 95 % interval."""

    queries: int
    pairs: int
    top10_overlap: float
    top10_overlap_low: float
    top10_overlap_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The figures of a bundle's parity report, without the texts of its worst pairs."""

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
    """The effect of a part of the model when only it is in 8 bits.

    It has the mean and largest |logit - FP32|, the part's share of the multiply-adds, and whether FP32 was restored.
    """

    unit: str
    mean_abs_diff: float
    max_abs_diff: float
    share: float
    restored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The content of a bundle's calibration.int8.json. `drawing` is the SVG that the export wrote with it, if any."""

    recipe: str
    eight_bit_share: float
    sensitivities: Sequence[Unit]
    drawing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The parity reports and the calibration of a bundle. `sha256` is that of its manifest, which results refer to."""

    model: str
    sha256: str
    tools: Mapping[str, str]
    parities: Sequence[Parity]
    calibration: Calibration | None

    @classmethod
    def read(cls, path: Path) -> "Proof":
        """Read a bundle. Raises BundleError for an incomplete bundle, DataFileError for a report with wrong fields."""
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
