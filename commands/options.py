"""What several commands are told, and how it is explained."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..engine.errors import OptionError

Precision = Annotated[
    str | None,
    typer.Option(help="fp32, which is taken unless asked, bf16, fp16, int8, or auto: the fastest that passed."),
]
Backend = Annotated[str, typer.Option(help="auto, onnxruntime, openvino, native or tensorrt.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; a GPU that can, else the CPU.")]
Threads = Annotated[int | None, typer.Option(help="Threads; all usable processors unless given.")]
MaxLength = Annotated[int | None, typer.Option(help="Longest pair in tokens; the model's own unless given.")]
RelevantLabel = Annotated[
    str | None,
    typer.Option(
        help="The label to rank by, its index or name, of a model with several; the checkpoint's own unless given."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Most pairs computed together.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Token = Annotated[str | None, typer.Option(help="Hub token, for private repositories.")]
CacheFolder = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Where exported bundles and hub files are kept; the user's caches if none."),
]
LocalFilesOnly = Annotated[bool, typer.Option("--local-files-only", help="Do not ask the hub.")]
TrustEngines = Annotated[
    bool,
    typer.Option(
        "--trust-engines", help="Load TensorRT engines that came with the bundle: machine code of who built them."
    ),
]
PairsFile = Annotated[Path | None, typer.Option(help="Real pairs to check besides: `query <tab> passage` lines.")]
QueriesFile = Annotated[Path | None, typer.Option(help="Or as TREC files: `id <tab> query` lines,")]
PassagesFile = Annotated[Path | None, typer.Option(help="`id <tab> passage` lines,")]
RunFile = Annotated[Path | None, typer.Option(help="and a TREC run over them.")]
Workspace = Annotated[int, typer.Option(help="Most device memory in MiB that a TensorRT kernel may use while it runs.")]
OptimizationLevel = Annotated[
    int | None, typer.Option(help="How long TensorRT looks for kernels, 0 to 5; its own default unless given.")
]
TimingCache = Annotated[
    Path | None, typer.Option(help="File of what TensorRT has measured of kernels; in the user's cache unless given.")
]
HardwareCompatible = Annotated[
    bool, typer.Option("--hardware-compatible", help="Engines for every GPU from Ampere on; slower.")
]
VersionCompatible = Annotated[
    bool, typer.Option("--version-compatible", help="Engines for later TensorRTs of the same major version; slower.")
]
Refittable = Annotated[
    bool, typer.Option("--refittable", help="Engines that take the weights of a fine-tuned copy: see --refit-from.")
]
UnfusedAttention = Annotated[
    bool,
    typer.Option("--unfused-attention", help="For a TensorRT whose fused attention computes wrong scores; slower."),
]
Sample = Annotated[int | None, typer.Option(help="Check a seeded sample of this many of them.")]


def hub_options(
    sources: list[str], revision: str | None, token: str | None, cache_folder: Path | None, local_files_only: bool
) -> dict[str, Any]:
    """Return the options by these names of `bundle_from_source`. Raises OptionError for a revision of what is no hub id."""
    local = [source for source in sources if Path(source).expanduser().is_dir()]
    if revision is not None and (not revision or local):
        what = f"{local[0]} is a directory" if local else "it is empty"
        raise OptionError(f"--revision {revision!r}: {what}; give the branch, tag or commit of a hub id")
    return {
        "revision": revision,
        "token": token,
        "cache_folder": cache_folder,
        "local_files_only": local_files_only,
    }
