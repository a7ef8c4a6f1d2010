"""Options that several commands share: single ones as types, and groups as dataclasses (see `option_groups`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...engine.errors import OptionError
from .arguments import check_standard_input

if TYPE_CHECKING:
    from ...engine.cascade import Cascade
    from ...engine.cross_encoder import CrossEncoder
    from ...engine.files.source import Source
    from ...engine.text.windows import Windows
    from ...export.tensorrt.build import BuildOptions

    TrecFiles = tuple[Source, Source, Source]

Precision = Annotated[
    str | None,
    typer.Option(
        help="fp32 (the default), bf16, fp16, int8, or auto: INT8 (FP16 on a GPU) if it passed its check, otherwise FP32."
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:1; by default a GPU that can run the bundle, otherwise the CPU.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads; by default one for each usable processor.")]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Longest pair in tokens; longer pairs are truncated. By default the model's own."),
]
RelevantLabel = Annotated[
    str | None,
    typer.Option(
        help="Index or name of the label to rank by, for models with several labels; by default the checkpoint's own."
    ),
]
TEXTS = "`id <tab> text` lines, JSON Lines or Parquet"
RUNS = "a TREC run, MS MARCO's three columns, JSON Lines or Parquet"
"""File formats, for the help of options. See `engine/files/texts.py` and `trec.py`."""

BatchSize = Annotated[int, typer.Option(help="Largest number of pairs in a batch.")]
TrustEngines = Annotated[
    bool,
    typer.Option(
        "--trust-engines",
        help="Load the TensorRT engines in the bundle. They are machine code: trust whoever built them.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionOptions:
    """Which backend scores, and on which device."""

    backend: Annotated[str, typer.Option(help="auto, onnxruntime, openvino, native or tensorrt.")] = "auto"
    device: Device = None
    threads: Threads = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(ExecutionOptions):
    """How a model is opened. The precision is not included, since some commands take several."""

    max_length: MaxLength = None
    relevant_label: RelevantLabel = None
    trust_engines: TrustEngines = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """How a hub id is fetched."""

    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None
    token: Annotated[str | None, typer.Option(help="Hub token, for private repositories.")] = None
    cache_folder: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Directory for exported bundles and hub files; by default the user's caches."
        ),
    ] = None
    local_files_only: Annotated[
        bool, typer.Option("--local-files-only", help="Use cached files only; do not contact the hub.")
    ] = False

    def for_bundles(self, sources: list[str]) -> dict[str, Any]:
        """Return the options of `bundle_from_source`. Raises OptionError for a revision of a directory and an empty revision."""
        local = [source for source in sources if Path(source).expanduser().is_dir()]
        if self.revision is not None and (not self.revision or local):
            what = f"{local[0]} is a directory" if local else "it is empty"
            raise OptionError(f"--revision {self.revision!r}: {what}; give the branch, tag or commit of a hub id")
        return asdict(self)

    def checkpoint(self, source: str, *, onnx: bool = False, onnx_file: str | None = None) -> tuple[Path, str | None]:
        """Return a checkpoint's directory, downloaded if `source` is a hub id, and its commit. See `fetched_checkpoint`.

        Raises OptionError as `for_bundles` does.
        """
        from ...engine.bundle.resolve import fetched_checkpoint

        options = self.for_bundles([source])
        path = Path(source).expanduser()
        return (path, None) if path.is_dir() else fetched_checkpoint(source, onnx=onnx, onnx_file=onnx_file, **options)

    @property
    def for_base(self) -> dict[str, Any]:
        """The options with which the base model of an adapter is fetched. The adapter itself names its revision."""
        return {name: value for name, value in asdict(self).items() if name != "revision"}


Exact = Annotated[
    bool | None,
    typer.Option(
        "--exact/--no-exact",
        help="Return the same K best as FP32: a cheaper precision scores all passages, and FP32 those that may be the best. "
        "By default only with --precision auto on the native kernels, for lists of at least 4 K + 10 passages.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactRowOptions:
    """Whether cheaper precisions are also measured as exact rankings."""

    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Also measure each cheaper precision as an exact ranking, as rerank --exact makes it."
        ),
    ] = False
    top_k: Annotated[int | None, typer.Option(min=1, help="How many passages --exact finds; 10 by default.")] = None

    def wanted(self) -> int | None:
        """Return how many passages exact rankings find, or None without them. Raises OptionError for --top-k without --exact."""
        if self.top_k is not None and not self.exact:
            raise OptionError("--top-k goes with --exact")
        return (self.top_k or 10) if self.exact else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOptions:
    """Whether and how long passages are cut into windows."""

    window: Annotated[
        int | None,
        typer.Option(
            help="Score long passages in windows of this many tokens, the query included, instead of cutting them."
        ),
    ] = None
    stride: Annotated[
        int | None, typer.Option(help="Tokens from one window to the next; by default half a window.")
    ] = None
    aggregate: Annotated[
        str, typer.Option(help="A passage's score from its windows': max, first, mean, mean:N (of the N best), or sum.")
    ] = "max"

    def windows(self) -> "Windows | None":
        """Return the windows, or None without --window. Raises OptionError for --stride or --aggregate without --window."""
        from ...engine.text.windows import Windows

        if self.window is None:
            if self.stride is not None or self.aggregate != "max":
                raise OptionError("--stride and --aggregate go with --window")
            return None
        stride = max(1, self.window // 2) if self.stride is None else self.stride
        return Windows(length=self.window, stride=stride, aggregate=self.aggregate)


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeOptions:
    """A small bundle that selects the passages for the main one."""

    first: Annotated[
        str | None,
        typer.Option(
            help="Make a cascade: this small bundle scores all passages, and BUNDLE only the best --keep of them."
        ),
    ] = None
    keep: Annotated[int | None, typer.Option(min=1, help="Passages of each query that --first keeps.")] = None

    def check(self) -> None:
        """Raise OptionError for one option without the other."""
        if (self.first is None) != (self.keep is None):
            raise OptionError("--first BUNDLE and --keep N go together")

    def bundles(self, bundle: str) -> list[str]:
        """Return the bundles to open: the main one, and the first one if given."""
        return [bundle] if self.first is None else [bundle, self.first]

    @contextmanager
    def ranker(
        self, model: "CrossEncoder", shared: Mapping[str, Any], **opened: Any
    ) -> "Iterator[tuple[CrossEncoder | Cascade, dict[str, Any]]]":
        """Yield `model`, or a cascade of the first bundle and it, and the options of its `rank`.

        The first bundle is opened with the options `opened`. `shared` are options of `rank` that both models get.
        """
        from ...engine.cascade import Cascade
        from ...engine.cross_encoder import CrossEncoder

        if self.first is None or self.keep is None:
            yield model, dict(shared)
            return
        with CrossEncoder(self.first, **opened) as first:
            yield Cascade(first, model, keep=self.keep), {**shared, "first_options": dict(shared)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrecOptions:
    """Pairs as TREC files: the candidates of a run, with their texts."""

    queries: Annotated[
        Path | None, typer.Option(help="Real pairs as TREC files: queries, as `id <tab> query` lines.")
    ] = None
    passages: Annotated[
        Path | None, typer.Option(help="Real pairs as TREC files: passages, as `id <tab> passage` lines.")
    ] = None
    run: Annotated[
        Path | None, typer.Option(help="Real pairs as TREC files: a TREC run over --queries and --passages.")
    ] = None

    def files(self, *, pairs: Path | None = None) -> "TrecFiles | None":
        """Return queries, passages and run, or None if none is given. Pipes are read here: call this once.

        Raises OptionError if only some are given, or if `pairs` is given too, and DataFileError for a file that cannot be read.
        """
        from ...engine.files.source import Source

        if not (self.queries or self.passages or self.run):
            return None
        if pairs is not None:
            raise OptionError("give --pairs, or --queries, --passages and --run, not both")
        if self.queries is None or self.passages is None or self.run is None:
            raise OptionError("--queries, --passages and --run go together")
        check_standard_input(queries=self.queries, passages=self.passages, run=self.run)
        return Source.of(self.queries), Source.of(self.passages), Source.of(self.run)


Pairs = Annotated[
    Path | None, typer.Option(help="Real pairs to check besides the built-in ones: `query <tab> passage` lines.")
]
Sample = Annotated[
    int | None, typer.Option(help="Check only a random sample of this many real pairs, always the same.")
]


def user_pairs(pairs: Path | None, files: "TrecFiles | None", sample: int | None) -> list[tuple[str, str]]:
    """Read the real pairs that were given, or a sample of them. Return an empty list if no file is given.

    `files` are those of `TrecOptions.files`. Raises OptionError for a sample of nothing.
    """
    from ...calibration.calibration_set import CalibrationSet

    if files is not None:
        return list(CalibrationSet.from_trec(*files, size=sample).pairs)
    if pairs is not None:
        return list(CalibrationSet.from_pairs_file(pairs, size=sample).pairs)
    if sample is not None:
        raise OptionError("--sample goes with --pairs, or with --queries, --passages and --run")
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How TensorRT engines are built."""

    workspace: Annotated[
        int, typer.Option(help="Largest device memory, in MiB, that a TensorRT kernel may use while it runs.")
    ] = 4096
    optimization_level: Annotated[
        int | None,
        typer.Option(
            help="TensorRT's builder optimization level, 0 (fast build) to 5 (fast engine); by default its own."
        ),
    ] = None
    timing_cache: Annotated[
        Path | None,
        typer.Option(help="File with TensorRT's kernel timings; by default in the user's cache."),
    ] = None
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Engines that run on every GPU from Ampere on; slower.")
    ] = False
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="Engines that run with later TensorRT releases of the same major version; slower.",
        ),
    ] = False
    refittable: Annotated[
        bool,
        typer.Option("--refittable", help="Engines that can take the weights of a fine-tuned copy: see --refit-from."),
    ] = False
    unfused_attention: Annotated[
        bool,
        typer.Option(
            "--unfused-attention",
            help="Build without fused attention, for TensorRT releases where it gives wrong scores; slower.",
        ),
    ] = False

    def build_options(self) -> "BuildOptions":
        """Return the options of the engine builder. Raises OptionError for invalid values."""
        from ...export.tensorrt.build import BuildOptions

        return BuildOptions(**asdict(self) | {"workspace": self.workspace << 20})
