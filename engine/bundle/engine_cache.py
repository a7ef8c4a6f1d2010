"""`EngineCache`: TensorRT engines built on this machine, in the user's cache; `rebuild` builds one.

An entry is a complete bundle with the engine and the model it was built from. So it has the same guarantees as engines in
bundles: it passed the parity check on its GPU, and it was written atomically.
"""

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ..errors import BackendError, BundleError
from ..files.cache import ADVICE, cache_folder
from ..files.digests import content_sha256
from ..files.lock import file_lock
from ..files.publish import clear_abandoned
from ..hardware.gpus import Gpu
from ..precision import Precision
from ..process.child import crossrt_command
from .bundle import Bundle
from .engine_file import EngineFile
from .profiles import Profile

logger = logging.getLogger("crossrt")

FOLDER = "engines"


@dataclass(frozen=True, slots=True)
class EngineCache:
    """A folder with an entry for each bundle, precision, GPU, TensorRT version and set of profiles.

    Any number of processes may use it at once.
    """

    folder: Path

    @classmethod
    def of_user(cls) -> "EngineCache | None":
        """Return the cache of this user, or None if this user has none."""
        folder = cache_folder(FOLDER)
        return None if folder is None else cls(folder)

    def find(
        self, bundle: Bundle, precision: Precision, *, gpu: Gpu, library: str, version: str
    ) -> tuple[Bundle, EngineFile] | None:
        """Return the bundle and the engine of the newest entry, or None. A damaged entry is skipped with a warning."""
        if not self.folder.is_dir():
            return None  # saves hashing the bundle for the key
        entries = [
            path for path in self.folder.glob(f"{_key(bundle, precision, gpu, library, version)}.*") if path.is_dir()
        ]
        for entry in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                cached = Bundle.open(entry)
            except BundleError as error:
                logger.warning("the engine in %s is not used (%s)", entry, error)
                continue
            if cached.manifest.engines:
                return cached, cached.manifest.engines[0]
        return None

    def entry(
        self,
        bundle: Bundle,
        precision: Precision,
        *,
        gpu: Gpu,
        library: str,
        version: str,
        profiles: Sequence[Profile],
    ) -> Path:
        """Return the directory of the entry for these profiles, whether or not it exists."""
        shapes = hashlib.sha256(repr([(each.min, each.opt, each.max) for each in profiles]).encode()).hexdigest()[:16]
        return self.folder / f"{_key(bundle, precision, gpu, library, version)}.{shapes}"

    def locked(self, entry: Path) -> AbstractContextManager[int]:
        """Lock an entry while it is built. A second process waits here, and must look for the entry again. See `file_lock`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_abandoned(self.folder)
        return file_lock(
            self.folder / f"{entry.name}-lock",
            waiting=f"crossrt: waiting for another process that builds {entry}",
        )


def rebuild(bundle: Bundle, precision: Precision, ordinal: int) -> None:
    """Build an engine of a bundle for this GPU into the user's cache, in a child process that runs `crossrt engines`.

    The child's output, including its progress, goes to standard error. If the child fails, raises BackendError with the end of
    that output.
    """
    if EngineCache.of_user() is None:
        raise BackendError(f"an engine that is built cannot be kept, since this user has no home directory: {ADVICE}")
    print(f"crossrt: building a {precision.value} engine of {bundle.path} for cuda:{ordinal}; minutes", file=sys.stderr)
    command = crossrt_command(
        *("engines", str(bundle.folder), "--cache", "--precision", precision.value, "--device", f"cuda:{ordinal}")
    )
    output: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            output.append(line.rstrip())
    if child.returncode:
        last = "\n  ".join(output[-20:]) or f"exit status {child.returncode}"
        raise BackendError(f"no {precision.value} engine of {bundle.path} could be built for cuda:{ordinal}:\n  {last}")


def _key(bundle: Bundle, precision: Precision, gpu: Gpu, library: str, version: str) -> str:
    engines = {engine.file for engine in bundle.manifest.engines}
    key = {
        # All files are part of the key, since a large model has its weights in files of their own.
        "bundle": {
            file.name: content_sha256(bundle.folder / file.name)
            for file in bundle.manifest.files
            if file.name not in engines
        },
        "precision": precision.value,
        "gpu": [gpu.name, gpu.capability],
        "tensorrt": [library, version],
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
