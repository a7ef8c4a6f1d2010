"""`PassageFile`: the passages of files of texts, looked up by id."""

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ..engine.errors import DataFileError
from ..engine.files.source import Given, Line, Source
from ..engine.files.texts import Text, located_texts, text_of
from ..engine.store.preparation import checked_name
from ..measurement.provenance import Provenance
from .passages import TextPassages

PIECE = 100_000
"""Number of lines indexed between two updates of the progress bar."""


class PassageFile(TextPassages):
    """Files of texts (`texts.py`), indexed by id. The texts stay on disk.

    The index takes the width of the longest id plus 8 bytes for each passage, and three times that while it is built. It is built
    in one pass. Anything but one plain text file, such as compressed files, Parquet or several files, is unpacked into a
    temporary file. Raises DataFileError, naming the line, for a line that is no passage and for a repeated id.
    """

    def __init__(self, given: Given, *, progress: bool = False) -> None:
        source = Source.of(given)
        self._lines = source.unpacked()
        self.where = str(source)
        names: list[bytes] = []
        pieces: list[npt.NDArray[np.bytes_]] = []
        starts = array("q")
        with tqdm(desc="Indexing", unit="passage", disable=not progress) as bar:
            for line, text in located_texts(self._lines):
                names.append(checked_name(text, line).encode())
                starts.append(line.position)
                if len(names) == PIECE:
                    pieces.append(np.array(names))
                    names.clear()
                    bar.update(PIECE)
            bar.update(len(names))
        unordered = np.concatenate([*pieces, np.array(names, dtype=None if names else "S1")])
        order = np.argsort(unordered)
        self._names: npt.NDArray[np.bytes_] = unordered[order]
        self._starts: npt.NDArray[np.int64] = np.frombuffer(starts, dtype=np.int64)[order]
        same = np.flatnonzero(self._names[1:] == self._names[:-1])
        if len(same):
            name, number = self._repeated(self._names[same].tolist())
            raise DataFileError(f"{source}, line {number}: the id {name} comes a second time; ids must be unique")
        self.source = Provenance.of_source(source)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield every id with its text, in the order of the file."""
        for line in self._lines.lines():
            text = text_of(line)
            yield text.id, text.text

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that are not in the file."""
        return [name for name, row in zip(ids, self._rows(ids).tolist(), strict=True) if row < 0]

    def texts(self, ids: Sequence[str]) -> list[str]:
        """Return the texts of these ids, all of which must exist. Raises DataFileError if the file was changed."""
        texts = []
        [path] = self._lines.files
        with path.open("rb") as file:
            for name, row in zip(ids, self._rows(ids).tolist(), strict=True):
                start = int(self._starts[row])
                file.seek(start)
                raw = file.readline().decode("utf-8" if start else "utf-8-sig", "replace").rstrip("\r\n")
                text = self._read_again(raw, start)
                if row < 0 or text is None or text.id != name:
                    raise DataFileError(f"{self.where} was changed while it was read; start again")
                texts.append(text.text)
        return texts

    def _read_again(self, raw: str, start: int) -> Text | None:
        try:
            return text_of(Line(self.where, 0, start, start, raw))
        except DataFileError:
            return None

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
        for line, text in located_texts(self._lines):
            if text.id in wanted:
                if text.id in seen:
                    return text.id, line.number
                seen.add(text.id)
        raise DataFileError(f"{self.where} was changed while it was read; start again")
