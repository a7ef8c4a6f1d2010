"""`crossrt info`: what a bundle is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import app, say
from .options import Backend, Device, Precision, Threads

if TYPE_CHECKING:
    from ..engine.bundle import Manifest


@app.command(epilog="Example:  crossrt info minilm-l6 --verify")
def info(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its sha256.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
    precision: Precision = None,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Say what a bundle holds, and what would run here and why."""
    from ..engine.bundle import Bundle
    from ..engine.session import choose_setup

    opened = Bundle.open(bundle, verify=verify)
    manifest = opened.manifest
    if as_json:
        say(manifest.to_json())
        return
    source, shape = manifest.source, manifest.architecture
    revision = f" at {source['revision']}" if source.get("revision") else ""
    lines = [
        f"{opened.path.resolve().name}, from {source.get('id')}{revision}",
        f"  architecture  {shape.get('model_type')}, {shape.get('layers')} layers x {shape.get('hidden_size')}, "
        f"head {shape.get('head', 'as exported')}",
        f"  labels        {manifest.labels}, relevant {manifest.relevant_label}, activation {manifest.activation}",
        f"  max length    {manifest.max_length} tokens of {manifest.max_positions}",
    ]
    lines += models_of(manifest)
    lines += [f"  file          {file.name}, {file.size:,} bytes" for file in manifest.files]
    lines.append(f"  files         {'sizes and sha256 agree' if verify else 'sizes agree; --verify compares sha256'}")
    lines.append(
        f"  here          {choose_setup(opened, precision=precision, backend=backend, device=device, threads=threads)}"
    )
    say("\n".join(lines))


def models_of(manifest: "Manifest") -> list[str]:
    """A line for each precision that a bundle holds: its files, and how they passed."""
    lines = []
    for name, model in manifest.models.items():
        checked = model.parity
        proof = (
            "parity not checked"
            if checked is None
            else f"parity {'passed' if checked['passed'] else 'FAILED'}, max |difference| {checked['max_abs_diff']:.1e}"
        )
        share = (model.numerics or {}).get("eight_bit_share")
        integer = "" if share is None else f", {share:.1%} of the multiply-adds in 8 bits"
        backends = "".join(
            f", {'passed' if passed else 'FAILED'} as {backend} computes it"
            for backend, passed in model.backends.items()
        )
        others = "".join(
            f"; {file} {where}"
            for file, where in (
                (model.native_file, "for own kernels" + (" on GPUs" if name == "fp16" else "")),
                (model.gpu_file, "on GPUs"),
                (model.fused_file, "by ONNX Runtime on GPUs"),
            )
            if file is not None
        )
        lines.append(f"  {name:<12}  {model.file}, {proof}{backends}{integer}{others}")
    return lines
