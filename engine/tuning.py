"""`Tuning`: what was found to be fastest for a bundle on this machine, kept in the user's cache."""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from .backends import BACKENDS, backend_version
from .bundle import Bundle
from .cpus import processor
from .precision import Precision

FOLDER = Path("~/.cache/crossrt/tunings")


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
        try:
            tuning = cls(**json.loads(_file(bundle, precision, threads).read_text(encoding="utf-8"))["tuning"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        numbers = (tuning.streams, tuning.batch_size)
        valid = tuning.backend in BACKENDS and all(type(number) is int and number >= 1 for number in numbers)
        return tuning if valid else None

    def store(self, bundle: Bundle, precision: Precision, threads: int) -> Path:
        """Write it where `stored` looks, whole or not at all. Raises OSError when the cache cannot be written."""
        file = _file(bundle, precision, threads)
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"tuning": dataclasses.asdict(self), "of": _key(bundle, precision, threads)}
        partial = file.with_suffix(f".{os.getpid()}")
        try:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
        return file


def _file(bundle: Bundle, precision: Precision, threads: int) -> Path:
    key = json.dumps(_key(bundle, precision, threads), sort_keys=True)
    return FOLDER.expanduser() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _key(bundle: Bundle, precision: Precision, threads: int) -> dict[str, object]:
    # BF16 is the FP32 file computed otherwise.
    model = bundle.model_file(Precision.FP32 if precision is Precision.BF16 else precision).name
    return {
        "model": bundle.sha256(model),
        "precision": precision.value,
        "threads": threads,
        "processor": processor(),
        "versions": {name: backend_version(name) for name in BACKENDS},
    }
