"""`Tuning`: what was found to be fastest for a bundle on this machine, kept in the user's cache."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.registry import BACKENDS, backend_version
from ..bundle.bundle import Bundle
from ..errors import BackendError
from ..files.cache import ADVICE, cache_folder
from ..files.digests import content_sha256
from ..files.publish import clear_abandoned, replaced_text
from ..files.record import read_json, record
from ..hardware.cpus import processor
from ..precision import Precision

FOLDER = "tunings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """A choice of `backend`, `streams` side by side, and rows of a batch."""

    backend: str
    streams: int
    batch_size: int

    @classmethod
    def stored(cls, bundle: Bundle, precision: Precision, threads: int) -> "Tuning | None":
        """Return what was stored for this model, machine, number of threads and backend versions, if anything was.

        A file that cannot be read or understood is as good as none: the model opens, untuned.
        """
        folder = cache_folder(FOLDER)
        try:
            # Who never tunes need not wait for the hash of the model.
            if folder is None or not any(folder.iterdir()):
                return None
            tuning = record(_Stored, read_json(folder / _name(bundle, precision, threads))).tuning
        except (OSError, ValueError):
            return None
        valid = tuning.backend in BACKENDS and tuning.streams >= 1 and tuning.batch_size >= 1
        return tuning if valid else None

    def store(self, bundle: Bundle, precision: Precision, threads: int) -> Path:
        """Write it where `stored` looks, whole or not at all.

        Raises OSError when the cache cannot be written, and BackendError where there is none.
        """
        folder = cache_folder(FOLDER)
        if folder is None:
            raise BackendError(f"what was tuned cannot be kept, since this user has no home directory: {ADVICE}")
        file = folder / _name(bundle, precision, threads)
        folder.mkdir(parents=True, exist_ok=True)
        clear_abandoned(folder)
        content = {"tuning": dataclasses.asdict(self), "of": _key(bundle, precision, threads)}
        with replaced_text(file) as opened:
            opened.write(json.dumps(content, indent=1) + "\n")
        return file


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """A file of the cache; what it is of is for people."""

    tuning: Tuning
    of: Mapping[str, Any]


def _name(bundle: Bundle, precision: Precision, threads: int) -> str:
    key = json.dumps(_key(bundle, precision, threads), sort_keys=True)
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _key(bundle: Bundle, precision: Precision, threads: int) -> dict[str, object]:
    # BF16 is the FP32 file computed otherwise.
    model = bundle.model_file(Precision.FP32 if precision is Precision.BF16 else precision)
    return {
        "model": content_sha256(model),
        "precision": precision.value,
        "threads": threads,
        "processor": processor(),
        "versions": {name: backend_version(name) for name in BACKENDS},
    }
