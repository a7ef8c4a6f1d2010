"""`crossrt engines` builds TensorRT engines of a bundle."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..engine.errors import OptionError
from .shared.app import app
from .shared.arguments import precisions_of
from .shared.engine_build import build_engines
from .shared.option_groups import with_option_groups
from .shared.options import EngineOptions, TrustEngines, user_pairs


@app.command(epilog="Example:  crossrt engines minilm-l6 --precision fp16,int8 --pairs pairs.tsv")
@with_option_groups
def engines(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    *,
    precision: Annotated[str, typer.Option(help="Precisions to build, such as fp16,int8.")] = "fp16",
    pairs: Annotated[
        Path | None, typer.Option(help="Real pairs, `query <tab> passage` lines; kernels are chosen for their lengths.")
    ] = None,
    device: Annotated[str, typer.Option(help="The GPU, such as cuda:1.")] = "cuda:0",
    max_length: Annotated[
        int | None, typer.Option(help="Longest pair, in tokens, that the engine takes; by default the model's longest.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens of the largest batch; fewer take less memory. 16384 by default.")
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache",
            help="Put the engines into the user's cache, where models look too, and leave the bundle as it is.",
        ),
    ] = False,
    refit_from: Annotated[
        Path | None,
        typer.Option(
            help="Bundle of the same architecture whose --refittable engine is to take this bundle's weights: takes seconds."
        ),
    ] = None,
    trust_engines: TrustEngines = False,
    building: EngineOptions,
) -> None:
    """Build TensorRT engines of a bundle for this machine's GPU, check them on it, and put them into the bundle."""
    from ..engine.bundle.bundle import Bundle
    from ..engine.selection.select_gpu import ordinals_of
    from ..export.tensorrt.engines import here

    options = building.build_options()
    if refit_from is not None and (cache or pairs or max_length or tokens or building != EngineOptions()):
        raise OptionError(
            "--refit-from takes an engine as it was built: leave out the options of building, and --cache"
        )
    if trust_engines and refit_from is None:
        raise OptionError("--trust-engines goes with --refit-from: engines that are built here need no trust")
    [ordinal] = ordinals_of(device)
    precisions = precisions_of(precision)
    here(ordinal)
    made = build_engines(
        Bundle.open(bundle),
        precisions,
        pairs=user_pairs(pairs, None, None),
        options=options,
        device=ordinal,
        max_length=max_length,
        cache=cache,
        refit_from=None if refit_from is None else Bundle.open(refit_from),
        trust_engines=trust_engines,
        **({} if tokens is None else {"tokens": tokens}),
    )
    if not cache:
        print(f"{made.path}: its engines are taken with --trust-engines, or trust_engines=True", file=sys.stderr)
