"""`bundle_from_source`: opens the bundle for a path or hub id.

A checkpoint is exported once, by a child process that runs `crossrt export`. So the process that scores never imports torch,
and the memory of the export is returned to the system. The cache's key contains the checkpoint's content, so a directory that
changes is exported again. It also contains crossrt's version, so that a fixed export replaces the bundles of an older one.
"""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from ... import __version__
from ..errors import BundleError, CrossrtError, SourceError
from ..files.cache import ADVICE, bundles_folder, hub_folder
from ..files.digests import content_sha256
from ..files.lock import file_lock
from ..files.publish import clear_abandoned
from ..process.child import crossrt_command
from ..process.telemetry import telemetry_off
from .bundle import Bundle
from .manifest import MANIFEST, SCHEMA, Manifest

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MODULE_FILES = ("config.json", "model.safetensors", "pytorch_model.bin")
WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin", *ADAPTER_WEIGHTS)
MODULE = re.compile(r"[0-9]+_[A-Z]\w*")
"""The folder of one of sentence-transformers' modules, such as 2_Dense."""
CHECKPOINT = re.compile(r"checkpoint-([0-9]+)")
CHECKPOINT_FILES = (
    "*.json",  # config, tokenizer, vocabulary, the index of sharded weights, settings of sentence-transformers
    "*.txt",  # vocab.txt, merges.txt
    "*.model",  # spiece.model, sentencepiece.bpe.model
    "*.codes",  # bpe.codes
    *WEIGHT_FILES,
    "[0-9]*_Pooling/config.json",  # modules of sentence-transformers
    *(f"[0-9]*_{module}/{name}" for module in ("Dense", "LayerNorm") for name in MODULE_FILES),
)
"""Files that an export reads: they are downloaded, and they are part of the cache's key."""
WEIGHTS_OF_ONNX = ("_data*", ".data*")
"""Endings that the name of an ONNX file gets in the names of the files with its external weights: those of Optimum,
transformers.js, which divides large ones, and PyTorch."""
ONNX_FILES = tuple(f"{name}{end}" for name in ("onnx/model.onnx", "model.onnx") for end in ("", *WEIGHTS_OF_ONNX))
EXPORTS = 5
"""Part of the cache's key. Increase it when a change to the export changes scores, so that cached bundles are made again, even
between two releases."""


def bundle_from_source(
    source: str,
    *,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_folder: str | PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Bundle:
    """Open the bundle at `source`, or export the checkpoint at `source`, a directory or a hub id, and open that bundle.

    `cache_folder` holds exported bundles and, if given, downloads from the hub; see `bundles_folder` for its default. If several
    processes open the same new checkpoint, one exports it and the others wait. Raises SourceError if the source cannot be found
    or fetched, its export fails, or there is no folder to keep it in, and BundleError for a damaged bundle.
    """
    path = Path(source).expanduser()
    if (path / MANIFEST).is_file():
        return Bundle.open(path)
    if path.is_dir():
        checkpoint, revision = path, None
    else:
        checkpoint, revision = fetched_checkpoint(
            source, revision=revision, token=token, cache_folder=cache_folder, local_files_only=local_files_only
        )
        if (checkpoint / MANIFEST).is_file():
            return Bundle.open(checkpoint)
    cache = bundles_folder(cache_folder)
    if cache is None:
        raise SourceError(_nowhere(source, "this user has no home directory"))
    target = cache / _content_key(checkpoint)
    environment = _hub_environment(token, cache_folder, local_files_only=local_files_only)
    return _cached(target) or _exported(checkpoint, target, source, revision, environment)


def fetched_checkpoint(
    source: str,
    *,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_folder: str | PathLike[str] | None = None,
    local_files_only: bool = False,
    onnx: bool = False,
    onnx_file: str | None = None,
    owner: str | None = "cross-encoder",
) -> tuple[Path, str]:
    """Download a hub repository's checkpoint files and return their directory and the commit.

    With `onnx` also download the repository's own `model.onnx`, or the file that `onnx_file` names, as a path in the repository
    or in its folder `onnx`. A name without an owner belongs to `owner`. If the repository is a bundle, download all files that
    its manifest lists. Raises SourceError for a file, for a name that is neither a directory nor a hub id, for an ONNX file
    that is not there, and for a download that fails.
    """
    if Path(source).expanduser().is_file():
        raise SourceError(f"{source} is a file; give the directory of a bundle or of a checkpoint, or a hub id")
    if not HUB_ID.fullmatch(source) or Path(source).suffix in (".onnx", ".json", ".bin", ".safetensors"):
        raise SourceError(
            f"{source} is not a directory that exists, nor a hub id like cross-encoder/ms-marco-MiniLM-L6-v2"
        )
    repository = source if "/" in source or owner is None else f"{owner}/{source}"
    try:
        with telemetry_off():
            import huggingface_hub
            from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        raise SourceError(
            f"{source} is no local directory, and fetching it needs huggingface_hub: pip install huggingface_hub"
        ) from None
    folder = hub_folder(cache_folder)
    if folder is None and not Path(HF_HUB_CACHE).is_absolute():
        raise SourceError(
            f"{source} is no local directory, and there is no folder to download it to, since this user has no home directory: "
            "give cache_folder=, or set HF_HOME, to a folder that this user can write"
        )

    def fetched(patterns: list[str], commit: str | None) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=commit,
                token=token,
                cache_dir=folder,
                local_files_only=local_files_only,
                allow_patterns=patterns,
            )
        )

    wanted = list(ONNX_FILES) if onnx or not can_export() else []
    chosen = [] if onnx_file is None else [onnx_file, f"onnx/{onnx_file}"]
    if chosen:  # with the files that may hold its external weights
        wanted = [f"{name}{end}" for name in chosen for end in ("", *WEIGHTS_OF_ONNX)]
    try:
        directory = fetched([*CHECKPOINT_FILES, *wanted], revision)
        if (manifest := directory / MANIFEST).is_file():
            files = Manifest.from_json(manifest.read_text(encoding="utf-8"), where=manifest).files
            directory = fetched([MANIFEST, *(file.name for file in files)], directory.name)
        elif chosen and not local_files_only and not any((directory / name).is_file() for name in chosen):
            names = huggingface_hub.list_repo_files(repository, revision=directory.name, token=token)
            models = ", ".join(name for name in names if name.endswith(".onnx")) or "no ONNX file"
            raise SourceError(f"{repository} holds no ONNX file {onnx_file!r}; it holds {models}")
    except CrossrtError:
        raise
    except Exception as error:  # the hub's errors, the HTTP library's and the file system's
        raise SourceError(
            f"{source} is no local directory, and {repository} could not be downloaded from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). "
            + (
                "Give cache_folder=, or set HF_HOME, to a folder that this user can write"
                if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
                else "Check the name and the network, or download the checkpoint and give its directory"
            )
        ) from error
    return directory, directory.name


def can_export() -> bool:
    """Tell whether the packages that an export from PyTorch needs are installed, without importing them."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("torch", "transformers", "onnx", "safetensors"))


def where_models_are(directory: Path) -> str:
    """Return a hint, beginning with a semicolon, that names the folders of a directory which hold a model.

    These are the newest `checkpoint-N` of a training run, and others, such as `final`. The hint is empty if there are none.
    """
    described = [
        path
        for path in sorted(directory.glob("*"))
        if any((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG))
    ]
    steps = {int(found[1]): path for path in described if (found := CHECKPOINT.fullmatch(path.name))}
    others = [
        str(path)
        for path in described
        if path not in steps.values()
        and not MODULE.fullmatch(path.name)
        and any(True for pattern in WEIGHT_FILES for _ in path.glob(pattern))
    ]
    if steps:
        newest = ", or ".join([str(steps[max(steps)]), *others])
        return f"; it is the output of a training run: give its newest checkpoint, {newest}"
    return f"; give the directory of a model, {' or '.join(others)}" if others else ""


def adapter_base(directory: Path) -> Path | None:
    """Return the directory of the model that a LoRA adapter was trained on; None if that is on the hub or this is no adapter."""
    try:
        name = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
        return next((path for path in (Path(name), directory / name) if name and path.is_dir()), None)
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None


def _content_key(checkpoint: Path) -> str:
    # `can_export` is part of the key: without PyTorch the bundle is made from the directory's own ONNX file.
    digest = hashlib.sha256(f"crossrt {__version__} schema {SCHEMA} exports {EXPORTS} {can_export()}".encode())
    patterns = (*CHECKPOINT_FILES, *ONNX_FILES)
    files = sorted({file for pattern in patterns for file in checkpoint.glob(pattern) if file.is_file()})
    if not files:
        raise SourceError(
            f"{checkpoint} holds no checkpoint: there is no config.json, weights or tokenizer in it"
            + where_models_are(checkpoint)
        )
    base = adapter_base(checkpoint)
    if base is not None:
        files += sorted({file for pattern in patterns for file in base.glob(pattern) if file.is_file()})
    for file in files:
        name = file.relative_to(checkpoint if base is None or not file.is_relative_to(base) else base)
        digest.update(f"{name} {content_sha256(file)}\n".encode())
    return digest.hexdigest()[:32]


def _cached(target: Path) -> Bundle | None:
    if not (target / MANIFEST).is_file():
        return None
    try:
        return Bundle.open(target)
    except BundleError:
        return None  # a damaged entry is exported again


def _hub_environment(
    token: bool | str | None, cache_folder: str | PathLike[str] | None, *, local_files_only: bool
) -> dict[str, str]:
    """Return environment variables that make an export fetch the base model of an adapter with the same options."""
    folder = hub_folder(cache_folder)
    return {
        **({"HF_TOKEN": token} if isinstance(token, str) else {}),
        **({"HF_HUB_CACHE": str(folder)} if folder is not None else {}),
        **({"HF_HUB_OFFLINE": "1"} if local_files_only else {}),
    }


def _exported(
    checkpoint: Path, target: Path, source: str, revision: str | None, environment: Mapping[str, str]
) -> Bundle:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(target.parent)
        exporting = file_lock(
            target.with_name(f".{target.name}.lock"),
            waiting=f"crossrt: waiting for another process that exports {source} to {target}",
        )
        with exporting as lock:
            bundle = _cached(target)  # another process may have exported it while this one waited
            if bundle is None:
                _export(checkpoint, target, source, revision, lock, environment)
                bundle = Bundle.open(target)
            return bundle
    except OSError as error:
        raise SourceError(_nowhere(source, f"{error.filename or target.parent}: {error.strerror}")) from error


def _nowhere(source: str, why: str) -> str:
    return (
        f"{source} is no bundle, and its export cannot be kept ({why}): {ADVICE}; or export it with `crossrt export` and open "
        "that bundle, which needs no cache"
    )


def _export(
    checkpoint: Path, target: Path, source: str, revision: str | None, lock: int, environment: Mapping[str, str]
) -> None:
    print(f"crossrt: exporting {source} once, to {target}", file=sys.stderr)
    words = ["export", str(checkpoint.absolute()), str(target), "--force", "--source-id", source]
    if revision is not None:
        words += ["--revision", revision]
    # The child inherits the lock, so that no second export starts if this process is killed while the child runs.
    inherited = () if sys.platform == "win32" else (lock,)
    child = subprocess.run(
        crossrt_command(*words),
        capture_output=True,
        text=True,
        check=False,
        pass_fds=inherited,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    if child.returncode:
        lines = (child.stderr.strip() or child.stdout.strip() or f"exit status {child.returncode}").splitlines()
        # Show crossrt's own message only: libraries write to standard error before it.
        own = [number for number, line in enumerate(lines) if line.startswith("crossrt: ")]
        lines = lines[own[-1] :] if own else lines[-20:]
        raise SourceError(f"{source} could not be exported:\n  " + "\n  ".join(lines))
    for warning in Bundle.open(target).manifest.source.get("warnings", ()):
        print(f"crossrt: warning: {warning}", file=sys.stderr)
