"""`crossrt info`: what a bundle is."""

from pathlib import Path
from typing import Annotated

import typer

from .app import app, models_of, say
from .options import Backend, Device, Precision, Threads, TrustEngines


@app.command(epilog="Example:  crossrt info minilm-l6 --verify")
def info(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its sha256.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
    precision: Precision = None,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
    trust_engines: TrustEngines = False,
) -> None:
    """Say what a bundle holds, and what would run here and why."""
    from ..engine.bundle.bundle import Bundle
    from ..engine.labels import described
    from ..engine.runtime.select import choose_execution

    opened = Bundle.open(bundle, verify=verify)
    manifest = opened.manifest
    if as_json:
        say(manifest.to_json())
        return
    source, shape = manifest.source, manifest.architecture
    revision = f" at {source['revision']}" if source.get("revision") else ""
    names = f" of {described(manifest.label_names, manifest.labels)}" if manifest.label_names else ""
    relevant = "none chosen" if manifest.relevant_label is None else f"relevant {manifest.relevant_label}"
    lines = [
        f"{opened.path.resolve().name}, from {source.get('id')}{revision}",
        f"  architecture  {shape.get('model_type')}, {shape.get('layers')} layers x {shape.get('hidden_size')}, "
        f"head {shape.get('head', 'as exported')}",
        f"  labels        {manifest.labels}, {relevant}{names}, activation {manifest.activation}",
        f"  max length    {manifest.max_length} tokens of {manifest.max_positions}",
    ]
    if manifest.prompt is not None:
        lines.append(f"  prompt        {manifest.prompt!r} before every query")
    lines += [f"  warning       {warning}" for warning in source.get("warnings", ())]
    lines += models_of(manifest)
    lines += [f"  file          {file.name}, {file.size:,} bytes" for file in manifest.files]
    lines.append(f"  files         {'sizes and sha256 agree' if verify else 'sizes agree; --verify compares sha256'}")
    if precision is None and "fp32" not in manifest.models:
        lines.append("  fp32          none: nothing runs unless its precision is named, or auto; this is auto")
        precision = "auto"
    here = choose_execution(
        opened, precision=precision, backend=backend, device=device, threads=threads, trust_engines=trust_engines
    )
    lines.append(f"  here          {here}")
    say("\n".join(lines))
