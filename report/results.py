"""`Results`: what a page shows. The kind of each file or folder is found from what it holds."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ..engine.bundle.bundle import Bundle
from ..engine.bundle.manifest import MANIFEST
from ..engine.errors import DataFileError
from ..engine.files.digests import sha256_of
from ..evaluation import result as evaluation
from ..evaluation.result import Evaluation
from ..speed import result as speed
from ..speed.result import Speeds

KNOWN = (
    "what is known: the result.json of `crossrt evaluate`, or its folder; the result of `crossrt bench`; the result of "
    "benchmarks/cpu.py; a bundle's directory"
)

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One row of benchmarks/cpu.py: a system's speed beside the reference's, or why it `failed`.

    Ratios are of one request's times to the reference's, the median and the 5th and 95th percentile.
    """

    system: str
    versions: Mapping[str, str]
    failed: str | None = None
    requests: int | None = None
    pairs_per_s: float | None = None
    ratio_median: float | None = None
    ratio_p5_p95: tuple[float, float] | None = None
    ms_p50_p95_p99: tuple[float, float, float] | None = None
    max_abs_diff: float | None = None
    mean_abs_diff: float | None = None
    top10_overlap: float | None = None
    of_ceiling: float | None = None
    other_scores: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """A result of benchmarks/cpu.py: one model in several systems. `padding` is by the way of cutting batches."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str
    model: str
    threads: int
    requests: int
    candidates: int
    ceiling_gflops: Mapping[str, float]
    padding: Mapping[str, float]
    systems: Sequence[ModelConfig]
    date: str | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All that was given, by kind, each with the name of its file, without its folder."""

    evaluations: Sequence[tuple[str, Evaluation]] = ()
    speeds: Sequence[tuple[str, Speeds]] = ()
    peers: Sequence[tuple[str, Peers]] = ()
    bundles: Sequence[tuple[str, Proof]] = ()

    @classmethod
    def read(cls, paths: Iterable[Path]) -> "Results":
        """Read files and folders; one that is named twice counts once.

        Raises DataFileError, naming the file and the kinds that are known, for anything else or of another schema, and
        BundleError for a bundle that is not whole.
        """
        found: dict[type, list[tuple[str, Any]]] = {kind: [] for kind in (Evaluation, Speeds, Peers, Proof)}
        for path in dict.fromkeys(path.resolve() for path in paths):
            result = _read(path)
            found[type(result)].append((path.name, result))
        return cls(evaluations=found[Evaluation], speeds=found[Speeds], peers=found[Peers], bundles=found[Proof])


def _read(path: Path) -> Evaluation | Speeds | Peers | Proof:
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return _proof(path)
        path = path / "result.json"
        if not path.is_file():
            raise DataFileError(f"{path.parent} has no {MANIFEST} and no {path.name}; {KNOWN}")
    fields = _fields(path)
    if fields.get("kind") == evaluation.KIND:
        return _evaluation(path)
    if fields.get("kind") == speed.KIND:
        return Speeds.read(path)
    if {"systems", "ceiling_gflops"} <= fields.keys():
        return _parsed(Peers, path, fields)
    raise DataFileError(f"{path} is no result that a page is made of; {KNOWN}")


def _evaluation(path: Path) -> Evaluation:
    whole = Evaluation.read(path)
    for ranking in whole.rankings:
        compared = whole.measures if ranking.changes is None else [*ranking.changes]
        missing = {*whole.measures} - ({*ranking.means} & {*compared})
        if missing:
            raise DataFileError(f"{path}: {ranking.label} lacks {', '.join(sorted(missing))}; evaluate again")
    return whole


def _proof(path: Path) -> Proof:
    bundle = Bundle.open(path)
    names = [file.name for file in bundle.manifest.files]
    calibration = None
    if "calibration.int8.json" in names:
        calibration = _parsed(Calibration, path / "calibration.int8.json", _fields(path / "calibration.int8.json"))
        if "calibration.int8.svg" in names:
            drawing = (path / "calibration.int8.svg").read_text(encoding="utf-8")
            calibration = dataclasses.replace(calibration, drawing=drawing)
    reports = (f"parity.{precision}.json" for precision in bundle.manifest.models)
    return Proof(
        model=str(bundle.manifest.source.get("id", path.name)),
        sha256=sha256_of(path / MANIFEST),
        tools=bundle.manifest.tools,
        parities=[_parsed(Parity, path / name, _fields(path / name)) for name in reports if name in names],
        calibration=calibration,
    )


def _fields(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataFileError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is not JSON ({error}); {KNOWN}") from error
    if not isinstance(fields, dict):
        raise DataFileError(f"{path} is no result that a page is made of; {KNOWN}")
    return fields


def _parsed(kind: type[Kind], path: Path, fields: Mapping[str, Any]) -> Kind:
    try:
        return TypeAdapter(kind).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataFileError(
            f"{path} does not have the fields it should: {where}: {first['msg']}; make it again"
        ) from error
