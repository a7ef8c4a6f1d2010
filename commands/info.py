"""`crossrt info` describes a bundle."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .shared.app import app
from .shared.option_groups import with_option_groups
from .shared.options import ExecutionOptions, Precision, TrustEngines
from .shared.output import models_of, say

if TYPE_CHECKING:
    from ..engine.bundle.bundle import Bundle


@app.command(epilog="Example:  crossrt info minilm-l6 --verify")
@with_option_groups
def info(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Check the sha256 of every file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
    precision: Precision = None,
    execution: ExecutionOptions,
    trust_engines: TrustEngines = False,
) -> None:
    """Show what a bundle holds, and what would run here and why."""
    from ..engine.bundle.bundle import Bundle
    from ..engine.selection.select import choose_execution

    opened = Bundle.open(bundle, verify=verify)
    if as_json:
        say(opened.manifest.to_json())
        return
    lines = _described(opened)
    lines.append(f"  files         {'sizes and sha256 agree' if verify else 'sizes agree; --verify compares sha256'}")
    if precision is None and "fp32" not in opened.manifest.models:
        lines.append("  fp32          none: nothing runs unless its precision is named, or auto; this is auto")
        precision = "auto"
    here = choose_execution(opened, precision=precision, trust_engines=trust_engines, **asdict(execution))
    lines.append(f"  here          {here}")
    say("\n".join(lines))


def _described(bundle: "Bundle") -> list[str]:
    """Return the manifest's contents as lines of text."""
    from ..engine.labels import described

    manifest = bundle.manifest
    source, shape = manifest.source, manifest.architecture
    revision = f" at {source['revision']}" if source.get("revision") else ""
    names = f" of {described(manifest.label_names, manifest.labels)}" if manifest.label_names else ""
    relevant = "none chosen" if manifest.relevant_label is None else f"relevant {manifest.relevant_label}"
    lines = [
        f"{bundle.path.resolve().name}, from {source.get('id')}{revision}",
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
    return lines
