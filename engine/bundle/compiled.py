"""`CompiledModels`: a cache of compiled models, such as those of OpenVINO, so that later processes need not compile them.

The cache never causes an error. A file that cannot be read, is corrupt or cannot be written is logged and ignored.
"""

import contextlib
import hashlib
import json
import logging
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..files.cache import cache_folder
from ..files.publish import clear_abandoned, replaced

logger = logging.getLogger("crossrt")

FOLDER = "compiled"
KEPT = 8
"""Files kept. Each is as large as its model."""
DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class CompiledModels:
    """A folder of files; each ends with the sha256 of its content. Any number of processes may use it at once.

    When there are more than `kept` files, the least recently used ones are deleted.
    """

    folder: Path
    kept: int = KEPT

    @classmethod
    def of_user(cls) -> "CompiledModels | None":
        """Return the cache of this user, or None if this user has none."""
        folder = cache_folder(FOLDER)
        return None if folder is None else cls(folder)

    def load(self, key: Mapping[str, object]) -> memoryview | None:
        """Return the content stored under this key after checking its sha256, or None.

        The memory is mapped from the file, copy-on-write: runtimes require writable memory, and what they write stays in this
        process.
        """
        file = self._file(key)
        try:
            with file.open("rb") as opened:
                content = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY))
            if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
                raise ValueError("its sha256 is another")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # mmap raises ValueError for an empty file
            logger.warning("the compiled model %s is not used (%s)", file, error)
            return None
        with contextlib.suppress(OSError):  # the file may be another user's, or read-only
            os.utime(file)
        return content[:-DIGEST]

    def store(self, key: Mapping[str, object], content: bytes | memoryview) -> None:
        """Store content under this key, atomically."""
        file = self._file(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            clear_abandoned(self.folder)
            with replaced(file) as opened:
                opened.write(content)
                opened.write(
                    hashlib.sha256(content).digest()
                )  # at the end, so that the content begins at a page boundary
            files = sorted(self.folder.glob("*.blob"), key=lambda each: each.stat().st_mtime)
            for old in files[: -self.kept]:
                old.unlink(missing_ok=True)
        except OSError as error:
            logger.info("the compiled model is not kept in %s (%s)", self.folder, error)

    def _file(self, key: Mapping[str, object]) -> Path:
        text = json.dumps(key, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.blob"
