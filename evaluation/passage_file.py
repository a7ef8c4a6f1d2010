"""`PassageFile`: the passages of a file of `id <tab> text` lines."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ..engine.errors import DataFileError
from ..engine.files.digests import sha256_of
from ..engine.files.trec import check_columns, located_lines
from ..engine.store.passage_store import LONGEST_NAME
from ..measurement.provenance import Provenance
from .passages import TextPassages

PIECE = 100_000
"""Lines indexed between two updates of the progress bar."""


class PassageFile(TextPassages):
    """A file of `id <tab> text` lines, indexed by id; the texts stay on disk.

    The index takes the width of the longest id plus 8 bytes for each passage, and three times that while it is built, in one
    pass. Raises DataFileError, naming the line, for a line that is no passage and for a repeated id.
    """

    def __init__(self, path: Path, *, progress: bool = False) -> None:
        self.path, self.where = path, str(path)
        names: list[bytes] = []
        pieces: list[npt.NDArray[np.bytes_]] = []
        starts = array("q")
        tabs: set[int] = set()
        with tqdm(desc="Indexing", unit="passage", disable=not progress) as bar:
            for number, position, line in located_lines(path):
                name, tab, _ = line.partition("\t")
                encoded = name.encode()
                # NumPy pads names with zero bytes, so a name that ends in one could not be told apart.
                if not tab or not 0 < len(encoded) <= LONGEST_NAME or "\0" in name:
                    raise DataFileError(
                        f"{path}, line {number}: expected `id <tab> text`, with an id of 1 to {LONGEST_NAME} bytes, got "
                        f"{line[:60]!r}"
                    )
                names.append(encoded)
                starts.append(position)
                tabs.add(line.count("\t"))
                if len(names) == PIECE:
                    pieces.append(np.array(names))
                    names.clear()
                    bar.update(PIECE)
            bar.update(len(names))
        check_columns(tabs, path, "`id <tab> text`")
        unordered = np.concatenate([*pieces, np.array(names, dtype=None if names else "S1")])
        order = np.argsort(unordered)
        self._names: npt.NDArray[np.bytes_] = unordered[order]
        self._starts: npt.NDArray[np.int64] = np.frombuffer(starts, dtype=np.int64)[order]
        same = np.flatnonzero(self._names[1:] == self._names[:-1])
        if len(same):
            name, number = self._repeated(self._names[same].tolist())
            raise DataFileError(f"{path}, line {number}: the id {name} comes a second time; ids must be unique")
        self.source = Provenance(name=path.name, sha256=sha256_of(path))

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield every id with its text, in the order of the file."""
        for _, _, line in located_lines(self.path):
            name, _, text = line.partition("\t")
            yield name, text

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that are not in the file."""
        return [name for name, row in zip(ids, self._rows(ids).tolist(), strict=True) if row < 0]

    def texts(self, ids: Sequence[str]) -> list[str]:
        """Return the texts of these ids, all of which must exist. Raises DataFileError when the file was changed."""
        texts = []
        with self.path.open("rb") as file:
            for name, row in zip(ids, self._rows(ids).tolist(), strict=True):
                start = int(self._starts[row])
                file.seek(start)
                line = file.readline().decode("utf-8" if start else "utf-8-sig", "replace")
                found, _, text = line.rstrip("\r\n").partition("\t")
                if row < 0 or found != name:
                    raise DataFileError(f"{self.path} was changed while it was read; start again")
                texts.append(text)
        return texts

    def _rows(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row of each id, -1 for one that is not in the file, int64 [n]."""
        width = self._names.dtype.itemsize
        encoded = [name.encode("utf-8", "surrogatepass") for name in ids]
        possible = np.array([0 < len(name) <= width and not name.endswith(b"\0") for name in encoded], dtype=bool)
        keys = np.array(encoded, dtype=self._names.dtype)
        rows = np.minimum(np.searchsorted(self._names, keys), len(self._names) - 1)
        return np.where(possible & (self._names[rows] == keys), rows, -1)

    def _repeated(self, names: Sequence[bytes]) -> tuple[str, int]:
        """Return the first of these names that occurs again, and the number of its second line."""
        wanted = {name.decode() for name in names}
        seen: set[str] = set()
        for number, _, line in located_lines(self.path):
            name = line.partition("\t")[0]
            if name in wanted:
                if name in seen:
                    return name, number
                seen.add(name)
        raise DataFileError(f"{self.path} was changed while it was read; start again")
