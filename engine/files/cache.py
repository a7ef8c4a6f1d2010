"""The cache: one folder of this user for everything that can be made again.

bundles/     exports of checkpoints and hub ids, by content
compiled/    models as OpenVINO compiled them
kernels/     CUDA kernels, compiled for the GPU at hand
engines/     TensorRT engines that were built for bundles on this machine
timings/     what TensorRT measured of kernels
tunings/     what `crossrt tune` found
digests/     sha256 of files that were hashed before

The environment variable CROSSRT_CACHE names the folder; without it, it is the platform's own, `~/.cache/crossrt` on Linux. There
is none where this user has no home directory, as in a container that runs under any user id. Then nothing is kept, and only
what cannot do without a cache is an error.
"""

import os
from os import PathLike
from pathlib import Path

VARIABLE = "CROSSRT_CACHE"
SENTENCE_TRANSFORMERS = "SENTENCE_TRANSFORMERS_HOME"
ADVICE = f"give cache_folder=, or set {VARIABLE}, to a folder that this user can write"


def cache_root() -> Path | None:
    """Return the cache's folder, whether or not it exists; None where this user has no place for one."""
    if chosen := os.environ.get(VARIABLE):
        return _absolute(chosen)
    import platformdirs  # 8 ms that `import crossrt` need not take

    try:
        found = platformdirs.user_cache_path("crossrt", appauthor=False)
    except RuntimeError:  # no home directory; older versions return a path that begins with ~
        return None
    return found if found.is_absolute() else None


def cache_folder(name: str) -> Path | None:
    """Return one of the folders above. See `cache_root`."""
    root = cache_root()
    return None if root is None else root / name


def bundles_folder(chosen: str | PathLike[str] | None) -> Path | None:
    """Return where exports are kept: in `chosen`, the user's `cache_folder=`, if given, and else in the cache.

    SENTENCE_TRANSFORMERS_HOME stands for a `cache_folder=` that was not given, as it does in sentence-transformers, unless
    CROSSRT_CACHE is set.
    """
    if not chosen and not os.environ.get(VARIABLE):
        chosen = os.environ.get(SENTENCE_TRANSFORMERS)
    return _absolute(chosen) / "bundles" if chosen else cache_folder("bundles")


def hub_folder(chosen: str | PathLike[str] | None) -> Path | None:
    """Return where hub files are kept; None leaves it to huggingface_hub, which obeys HF_HOME and HF_HUB_CACHE."""
    chosen = chosen or os.environ.get(SENTENCE_TRANSFORMERS)
    return _absolute(chosen) if chosen else None


def _absolute(path: str | PathLike[str]) -> Path:
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111, Path.expanduser fails without a home directory
