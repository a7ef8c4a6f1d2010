"""From what a user names to a bundle: a bundle, a checkpoint directory, or a hub id.

A checkpoint is exported once, by a child process that runs `crossrt export`: torch never enters the process that
scores, and its memory goes back to the system. The cache is keyed by the checkpoint's content, so a directory that is
trained on and saved again is exported again.
"""

import hashlib
import re
import subprocess
import sys
from os import PathLike, fspath
from pathlib import Path

from .bundle import MANIFEST, SCHEMA, Bundle, sha256_of
from .errors import BundleError, SourceError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")
CHECKPOINT_FILES = ("*.json", "vocab.txt", "*.model", "model.safetensors", "pytorch_model.bin")
ONNX_FILES = ("onnx/model.onnx", "onnx/model.onnx_data", "model.onnx", "model.onnx_data")
DEFAULT_CACHE = Path("~/.cache/crossrt")


def bundle_from_source(
    source: str,
    *,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_folder: str | PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Bundle:
    """Open the bundle that `source` is, or that its export is.

    `cache_folder` holds exported bundles and, when given, the hub's files too. Raises SourceError when nothing of that
    name can be had, or its export failed; BundleError for a damaged bundle.
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
    cache = Path(cache_folder or DEFAULT_CACHE).expanduser() / "bundles"
    target = cache / _content_key(checkpoint)
    if (target / MANIFEST).is_file():
        try:
            return Bundle.open(target)
        except BundleError:
            pass  # a damaged cache entry is replaced, not mourned
    _export(checkpoint, target, source, revision)
    return Bundle.open(target)


def fetched_checkpoint(
    source: str,
    *,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_folder: str | PathLike[str] | None = None,
    local_files_only: bool = False,
    onnx: bool = False,
) -> tuple[Path, str]:
    """Download a hub repository's checkpoint files and return their directory and the commit.

    With `onnx` the repository's own ONNX file comes too. Raises SourceError for a name that is neither a directory nor
    a hub id, and for anything that keeps the files from being had.
    """
    if not HUB_ID.fullmatch(source) or Path(source).suffix in (".onnx", ".json", ".bin", ".safetensors"):
        raise SourceError(
            f"{source} is not a directory that exists, nor a hub id like cross-encoder/ms-marco-MiniLM-L6-v2"
        )
    repository = source if "/" in source else f"cross-encoder/{source}"
    try:
        import huggingface_hub
    except ImportError:
        raise SourceError(
            f"{source} is no local directory, and fetching it needs huggingface_hub: pip install huggingface_hub"
        ) from None
    try:
        directory = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            token=token,
            cache_dir=None if cache_folder is None else fspath(cache_folder),
            local_files_only=local_files_only,
            allow_patterns=[*CHECKPOINT_FILES, *(ONNX_FILES if onnx or not can_export() else ()), "model.*.onnx"],
        )
    except Exception as error:  # the hub's errors, the HTTP library's and the file system's
        raise SourceError(
            f"{source} is no local directory, and {repository} could not be had from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). "
            "Check the name and the network, or download the checkpoint and give its directory"
        ) from error
    return Path(directory), Path(directory).name


def can_export() -> bool:
    """Tell whether what an export from PyTorch needs is installed, without importing it."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("torch", "transformers", "onnx", "safetensors"))


def _content_key(checkpoint: Path) -> str:
    digest = hashlib.sha256(f"schema {SCHEMA}".encode())
    patterns = (*CHECKPOINT_FILES, *ONNX_FILES)
    files = sorted({file for pattern in patterns for file in checkpoint.glob(pattern) if file.is_file()})
    if not files:
        raise SourceError(f"{checkpoint} holds no checkpoint: there is no config.json, weights or tokenizer in it")
    for file in files:
        digest.update(f"{file.relative_to(checkpoint)} {sha256_of(file)}\n".encode())
    return digest.hexdigest()[:32]


def _export(checkpoint: Path, target: Path, source: str, revision: str | None) -> None:
    print(f"crossrt: exporting {source} once, to {target}", file=sys.stderr)
    command = [
        sys.executable,
        "-m",
        "crossrt",
        "export",
        str(checkpoint),
        str(target),
        "--force",
        "--source-id",
        source,
    ]
    if revision is not None:
        command += ["--revision", revision]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        said = (child.stderr.strip() or child.stdout.strip() or f"exit status {child.returncode}").splitlines()
        raise SourceError(f"{source} could not be exported:\n  " + "\n  ".join(said[-20:]))
