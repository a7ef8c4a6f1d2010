"""`EngineCache`: engines that were built for bundles on this machine, in the user's cache.

An entry is a bundle of its own, with the engine and the model it was built from, so all that holds for engines in bundles
holds here: it has passed parity on its GPU, and appears whole or not at all.
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
from ..files.lock import held
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
    """A folder with an entry for each bundle, precision, GPU, TensorRT and set of profiles. Any number of processes use it."""

    folder: Path

    @classmethod
    def of_user(cls) -> "EngineCache | None":
        """The cache of this user; None where there is none."""
        folder = cache_folder(FOLDER)
        return None if folder is None else cls(folder)

    def find(
        self, bundle: Bundle, precision: Precision, *, gpu: Gpu, library: str, version: str
    ) -> tuple[Bundle, EngineFile] | None:
        """Return the newest entry's bundle and its engine, or None. A damaged entry is as good as none, with a warning."""
        if not self.folder.is_dir():
            return None  # without the bundle's hash, which is computed for the key
        entries = [
            path for path in self.folder.glob(f"{_key(bundle, precision, gpu, library, version)}.*") if path.is_dir()
        ]
        for entry in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                found = Bundle.open(entry)
            except BundleError as error:
                logger.warning("the engine in %s is not used (%s)", entry, error)
                continue
            if found.manifest.engines:
                return found, found.manifest.engines[0]
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
        """Return the directory that an engine of these profiles has, or would have."""
        shapes = hashlib.sha256(repr([(each.min, each.opt, each.max) for each in profiles]).encode()).hexdigest()[:16]
        return self.folder / f"{_key(bundle, precision, gpu, library, version)}.{shapes}"

    def locked(self, entry: Path) -> AbstractContextManager[int]:
        """Hold an entry for building it; whoever comes second waits, and looks for it again. See `held`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_abandoned(self.folder)
        return held(
            self.folder / f"{entry.name}-lock",
            waiting=f"crossrt: waiting for another process that builds {entry}",
        )


def rebuild(bundle: Bundle, precision: Precision, ordinal: int) -> None:
    """Build an engine of a bundle for this GPU into the user's cache, in a process of its own that runs `crossrt engines`.

    What that says, how far it is among it, comes on standard error. Raises BackendError, with its last words, when it failed.
    """
    if EngineCache.of_user() is None:
        raise BackendError(f"an engine that is built cannot be kept, since this user has no home directory: {ADVICE}")
    print(f"crossrt: building a {precision.value} engine of {bundle.path} for cuda:{ordinal}; minutes", file=sys.stderr)
    command = crossrt_command(
        *("engines", str(bundle.path), "--cache", "--precision", precision.value, "--device", f"cuda:{ordinal}")
    )
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            said.append(line.rstrip())
    if child.returncode:
        last = "\n  ".join(said[-20:]) or f"exit status {child.returncode}"
        raise BackendError(f"no {precision.value} engine of {bundle.path} could be built for cuda:{ordinal}:\n  {last}")


def _key(bundle: Bundle, precision: Precision, gpu: Gpu, library: str, version: str) -> str:
    engines = {engine.file for engine in bundle.manifest.engines}
    key = {
        # Every file counts: the weights of a large model lie beside it.
        "bundle": {
            file.name: content_sha256(bundle.path / file.name)
            for file in bundle.manifest.files
            if file.name not in engines
        },
        "precision": precision.value,
        "gpu": [gpu.name, gpu.capability],
        "tensorrt": [library, version],
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
