"""Output of commands."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...engine.bundle.manifest import BundleModel, Manifest


def say(text: str) -> None:
    """Print a line and flush it. Raises BrokenPipeError when the reader has gone, which ends the command quietly."""
    print(text, flush=True)  # typer.echo would hide a closed pipe


def say_json(value: Any) -> None:
    """Print a value as JSON. Escape non-ASCII characters unless the output's encoding is a UTF."""
    everything = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")
    say(json.dumps(value, ensure_ascii=not everything, indent=2))


def for_a_person() -> bool:
    """Tell whether standard error is a terminal, so that progress bars are shown."""
    return sys.stderr.isatty()


def size_of(directory: Path) -> str:
    """Return the total size of a directory's files, such as `90.9 MB`."""
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return f"{size / 1e6:,.1f} MB"


def models_of(manifest: "Manifest") -> list[str]:
    """Return a line for each precision that a bundle holds: its files, and its parity with the checkpoint."""
    return [
        f"  {name:<12}  {model.file}, {_proof(model)}{_files(name, model)}" for name, model in manifest.models.items()
    ]


def _proof(model: "BundleModel") -> str:
    checked = model.parity
    proof = (
        "parity not checked"
        if checked is None
        else f"parity {'passed' if checked['passed'] else 'FAILED'}, max |difference| {checked['max_abs_diff']:.1e}"
    )
    backends = "".join(
        f", {'passed' if passed else 'FAILED'} as {backend} computes it" for backend, passed in model.backends.items()
    )
    share = (model.numerics or {}).get("eight_bit_share")
    return proof + backends + ("" if share is None else f", {share:.1%} of the multiply-adds in 8 bits")


def _files(precision: str, model: "BundleModel") -> str:
    """Return the other files of a precision, each with the backend that reads it."""
    files = (
        (model.native_file, "for native kernels" + (" on GPUs" if precision == "fp16" else "")),
        (model.gpu_file, "on GPUs"),
        (model.fused_file, "by ONNX Runtime on GPUs"),
    )
    return "".join(f"; {file} {where}" for file, where in files if file is not None)
