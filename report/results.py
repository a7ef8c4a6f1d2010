"""`Results`: the results that a page shows. The content of a file or folder tells its kind."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.bundle.manifest import MANIFEST
from ..engine.errors import DataFileError
from ..evaluation import result as evaluation
from ..evaluation.result import Evaluation
from ..speed.result import speeds as speed
from ..speed.result.speeds import Speeds
from .fields import KNOWN, checked_fields, fields_of
from .peers import Peers
from .proof import Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All results by kind, each with the name of its file without the folder."""

    evaluations: Sequence[tuple[str, Evaluation]] = ()
    speeds: Sequence[tuple[str, Speeds]] = ()
    peers: Sequence[tuple[str, Peers]] = ()
    bundles: Sequence[tuple[str, Proof]] = ()

    @classmethod
    def read(cls, paths: Iterable[Path]) -> "Results":
        """Read files and folders. A path that is named twice counts once.

        Raises DataFileError, naming the file, for other kinds of files and for other schemas, and BundleError for an incomplete
        bundle.
        """
        found: dict[type, list[tuple[str, Any]]] = {kind: [] for kind in (Evaluation, Speeds, Peers, Proof)}
        for path in dict.fromkeys(path.resolve() for path in paths):
            result = _read(path)
            found[type(result)].append((path.name, result))
        return cls(evaluations=found[Evaluation], speeds=found[Speeds], peers=found[Peers], bundles=found[Proof])


def _read(path: Path) -> Evaluation | Speeds | Peers | Proof:
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return Proof.read(path)
        path = path / "result.json"
        if not path.is_file():
            raise DataFileError(f"{path.parent} has no {MANIFEST} and no {path.name}; {KNOWN}")
    fields = fields_of(path)
    if fields.get("kind") == evaluation.KIND:
        return _evaluation(path)
    if fields.get("kind") == speed.KIND:
        return Speeds.read(path)
    if {"systems", "ceiling_gflops"} <= fields.keys():
        return checked_fields(Peers, path, fields)
    raise DataFileError(f"{path} is no result that a page is made of; {KNOWN}")


def _evaluation(path: Path) -> Evaluation:
    whole = Evaluation.read(path)
    for ranking in whole.rankings:
        compared = whole.measures if ranking.changes is None else [*ranking.changes]
        missing = {*whole.measures} - ({*ranking.means} & {*compared})
        if missing:
            raise DataFileError(f"{path}: {ranking.label} lacks {', '.join(sorted(missing))}; evaluate again")
    return whole
