"""Options of a job on Ray."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import typer

from ...engine.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """Where a job on Ray runs, and how it is divided."""

    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Rerank on a Ray cluster: local (starts Ray here), auto, or host:port of the head. --threads are then the "
            "processors of each actor.",
        ),
    ] = None
    ray_actors: Annotated[
        int | None, typer.Option(min=1, help="Most actors, each with a model; by default as many as fit.")
    ] = None
    ray_gpus: Annotated[float, typer.Option(min=0, help="GPUs of each actor.")] = 0
    ray_parts: Annotated[
        str | None,
        typer.Option(
            help="Folder or URL, for all nodes, of the finished parts; OUT.parts by default. A later start goes on there."
        ),
    ] = None
    ray_block: Annotated[int, typer.Option(min=1, help="Pairs that are scored and committed together.")] = 2000
    ray_cut: Annotated[int, typer.Option(min=1, help="Candidates above which a list is scored in pieces.")] = 1000
    on_error: Annotated[
        str, typer.Option(help="stop, or skip: set passages that cannot be scored aside, in OUT.errors.jsonl.")
    ] = "stop"

    def arguments(self) -> dict[str, Any]:
        """Return these options as arguments of `crossrt.distributed.rerank`."""
        found = asdict(self)
        return {name.removeprefix("ray_"): value for name, value in found.items()}

    def refuse_without_ray(self) -> None:
        """Raise OptionError for an option that was given without --ray."""
        if self.ray is None:
            for field in fields(self):
                if getattr(self, field.name) != field.default:
                    raise OptionError(f"--{field.name.replace('_', '-')} goes with --ray")
