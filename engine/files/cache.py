"""The cache: one folder per user for files that crossrt can make again. It contains all caches of crossrt:

bundles/     bundles exported from checkpoints and hub ids, by the checkpoint's content
compiled/    models compiled by OpenVINO
linked/      links to models while OpenVINO opens them
kernels/     CUDA kernels compiled for a GPU
engines/     TensorRT engines built on this machine
timings/     TensorRT's timing caches
tunings/     results of `crossrt tune`
digests/     sha256 of files
fetched/     stores and bundles copied from URLs

The environment variable CROSSRT_CACHE names the folder. Its default is the platform's cache folder, `~/.cache/crossrt` on Linux.
A user without a home directory, as in a container with an arbitrary user id, has no cache. Then nothing is stored, and only
operations that need the cache fail.
"""

import os
from os import PathLike
from pathlib import Path

VARIABLE = "CROSSRT_CACHE"
SENTENCE_TRANSFORMERS = "SENTENCE_TRANSFORMERS_HOME"
ADVICE = f"give cache_folder=, or set {VARIABLE}, to a folder that this user can write"


def cache_root() -> Path | None:
    """Return the folder of the cache, whether or not it exists; None if this user has no cache."""
    if chosen := os.environ.get(VARIABLE):
        return _absolute(chosen)
    import platformdirs  # imported here, because it would add 8 ms to `import crossrt`

    try:
        folder = platformdirs.user_cache_path("crossrt", appauthor=False)
    except RuntimeError:  # no home directory; older versions return a path that begins with ~
        return None
    return folder if folder.is_absolute() else None


def cache_folder(name: str) -> Path | None:
    """Return the path of one of the folders listed above, or None if this user has no cache."""
    root = cache_root()
    return None if root is None else root / name


def bundles_folder(chosen: str | PathLike[str] | None) -> Path | None:
    """Return the folder of exported bundles: inside `chosen`, the user's `cache_folder=`, or else inside the cache.

    As in sentence-transformers, SENTENCE_TRANSFORMERS_HOME is the default of `cache_folder=`, unless CROSSRT_CACHE is set.
    """
    if not chosen and not os.environ.get(VARIABLE):
        chosen = os.environ.get(SENTENCE_TRANSFORMERS)
    return _absolute(chosen) / "bundles" if chosen else cache_folder("bundles")


def hub_folder(chosen: str | PathLike[str] | None) -> Path | None:
    """Return the folder of downloads from the hub; None means huggingface_hub's own, which HF_HOME and HF_HUB_CACHE set."""
    chosen = chosen or os.environ.get(SENTENCE_TRANSFORMERS)
    return _absolute(chosen) if chosen else None


def _absolute(path: str | PathLike[str]) -> Path:
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111, Path.expanduser fails without a home directory
