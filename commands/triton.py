"""`crossrt triton` writes a model for Triton Inference Server."""

from pathlib import Path
from typing import Annotated

import typer

from ..engine.errors import OptionError
from .shared.app import app
from .shared.options import MaxLength, Precision, RelevantLabel, Threads, TrustEngines
from .shared.output import say, size_of
from .shared.requirements import need_onnx


@app.command(epilog="Example:  crossrt triton minilm-l6 models --precision int8")
def triton(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    repository: Annotated[Path, typer.Argument(help="Triton's model repository; it is made if it is not there.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the model; by default the bundle's directory's.")] = None,
    onnxruntime: Annotated[
        bool,
        typer.Option(
            "--onnxruntime", help="For Triton's onnxruntime backend: token ids in, logits out, without crossrt."
        ),
    ] = False,
    precision: Precision = None,
    device: Annotated[
        str, typer.Option(help="cpu; cuda, for an instance on each GPU; or cuda:1, for one on that GPU.")
    ] = "cpu",
    threads: Threads = None,
    backend: Annotated[
        str, typer.Option(help="What crossrt scores with: auto, onnxruntime, openvino, native or tensorrt.")
    ] = "auto",
    max_length: MaxLength = None,
    relevant_label: RelevantLabel = None,
    trust_engines: TrustEngines = False,
    max_batch_size: Annotated[
        int, typer.Option(min=1, help="Most lists, or with --onnxruntime pairs, that Triton scores at once.")
    ] = 64,
    link: Annotated[
        bool, typer.Option("--link", help="Put a symbolic link to the bundle into the model instead of a copy.")
    ] = False,
) -> None:
    """Write a model for Triton Inference Server into its model repository. Lists of unequal length are scored together."""
    from ..engine.bundle.bundle import Bundle
    from ..integrations.triton.config import Instances
    from ..integrations.triton.parameters import parameters_of
    from ..integrations.triton.repository import write_onnxruntime_model, write_python_model

    opened = Bundle.open(bundle)
    name = bundle.resolve().name if name is None else name
    instances = Instances(device=device, max_batch_size=max_batch_size)
    scoring = {"max_length": max_length, "relevant_label": relevant_label, "trust_engines": trust_engines}
    if onnxruntime:
        if link or backend != "auto" or parameters_of(scoring):
            raise OptionError(
                "--onnxruntime has a copy of the graph, and Triton runs it: leave out --link, --backend, --max-length, "
                "--relevant-label and --trust-engines"
            )
        need_onnx()
        made = write_onnxruntime_model(opened, repository, name, instances, precision=precision, threads=threads)
    else:
        chosen = None if backend == "auto" else backend
        options = {"precision": precision, "threads": threads, "backend": chosen, **scoring}
        made = write_python_model(opened, repository, name, instances, options, link=link)
    say(f"{made}: {size_of(made)}; start Triton with --model-repository {repository.resolve()}")
