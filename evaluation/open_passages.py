"""`open_passages` opens the passages of `--passages` or `--store`."""

from pathlib import Path

from ..engine.errors import OptionError
from ..engine.files.source import Given
from .passage_file import PassageFile
from .passages import Passages
from .prepared_passages import PreparedPassages


def open_passages(passages: Given | None, store: Path | None, *, progress: bool = False) -> Passages:
    """Index files of passages, or open a store of prepared ones. Raises OptionError unless exactly one is given."""
    if passages is not None and store is None:
        return PassageFile(passages, progress=progress)
    if store is not None and passages is None:
        return PreparedPassages(store)
    raise OptionError("give --passages or --store, one of them")
