"""`Tuning`: the fastest way to run a bundle on this machine, as `crossrt tune` measured and stored it in the cache."""

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
    """The fastest `backend`, number of `streams` and rows of a batch."""

    backend: str
    streams: int
    batch_size: int

    @classmethod
    def load(cls, bundle: Bundle, precision: Precision, threads: int) -> "Tuning | None":
        """Return the tuning stored for this model, processor, number of threads and backend versions, or None.

        A file that cannot be read or is not valid is ignored, and the model opens untuned.
        """
        folder = cache_folder(FOLDER)
        try:
            # If the folder is empty, the model need not be hashed.
            if folder is None or not any(folder.iterdir()):
                return None
            tuning = record(_Stored, read_json(folder / _name(bundle, precision, threads))).tuning
        except (OSError, ValueError):
            return None
        valid = tuning.backend in BACKENDS and tuning.streams >= 1 and tuning.batch_size >= 1
        return tuning if valid else None

    def store(self, bundle: Bundle, precision: Precision, threads: int) -> Path:
        """Write the tuning atomically to the cache and return its file, which `load` reads.

        Raises OSError if the cache cannot be written, and BackendError if this user has none.
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
    """A file of the cache. `of` repeats the key for people who look at the file."""

    tuning: Tuning
    of: Mapping[str, Any]


def _name(bundle: Bundle, precision: Precision, threads: int) -> str:
    key = json.dumps(_key(bundle, precision, threads), sort_keys=True)
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _key(bundle: Bundle, precision: Precision, threads: int) -> dict[str, object]:
    # BF16 is computed from the FP32 file.
    model = bundle.model_file(Precision.FP32 if precision is Precision.BF16 else precision)
    weights = bundle.weights_sha256(bundle.name_of(model))
    return {
        "model": content_sha256(model),
        **({"weights": weights} if weights else {}),
        "precision": precision.value,
        "threads": threads,
        "processor": processor(),
        "versions": {name: backend_version(name) for name in BACKENDS},
    }
