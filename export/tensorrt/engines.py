"""`add_engines`: TensorRT engines of a bundle's models, built for the GPU at hand, checked on it, and put into the bundle.

The reference is the bundle's own ONNX model of the same precision on the CPU, which PyTorch's scores and the ranking gate
have passed already; so engines can be built where there is no torch.
"""

import dataclasses
import importlib.util
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...calibration.judging_set import JudgingSet
from ...calibration.ranking import top_overlap
from ...engine.backends.registry import backend_version
from ...engine.backends.tensorrt import checked_plan
from ...engine.batching.batch import Batch
from ...engine.bundle.bundle import Bundle
from ...engine.bundle.engine_cache import EngineCache
from ...engine.bundle.engine_file import LIBRARIES, EngineFile
from ...engine.bundle.manifest import MANIFEST
from ...engine.bundle.profiles import TOKENS, Profile, Shape, profiles_for
from ...engine.cross_encoder import CrossEncoder
from ...engine.errors import BackendError, BundleError, OptionError, ParityError
from ...engine.files.cache import ADVICE, cache_folder
from ...engine.files.digests import content_sha256
from ...engine.files.publish import published_directory
from ...engine.hardware.gpus import Gpu, gpus
from ...engine.precision import Precision
from ...engine.text.tokenizer import read_tokenizer
from ..bundle.manifest import write_manifest
from ..parity.pairs import builtin_pairs
from ..precision.tolerance import TOLERANCE
from .attention import UNMEASURED, fused_attention
from .build import TIMINGS, BuildOptions, Progress, engine_from_onnx, layer_information, refitted
from .tensorrt8 import takes_file_for_gpus

ALLOWED = {Precision.FP32: 2e-3, Precision.FP16: 0.03, Precision.INT8: 0.5}
"""The largest difference of a logit. FP32 leaves room for TF32 being off and other sums; in INT8 one value rounded to its
other neighbour moves a logit by some hundredths."""

UNFUSED_HINT = (
    "; if TensorRT's fused attention is at fault, as 8.6.0's is on an H200, --unfused-attention builds without it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCheck:
    """How an engine's logits differ from the ONNX model's, at each profile's corners and on the built-in pairs.

    `top10_overlap` of INT8 is with the bundle's FP32 model on the CPU, the mean over ranked lists, and `least_overlap` is needed;
    None where the logits have failed already, and for other precisions.
    """

    engine: EngineFile
    shapes: tuple[Shape, ...]
    pairs: int
    max_abs_diff: float
    allowed: float
    top10_overlap: float | None = None
    least_overlap: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the engine may enter a bundle. NaN does not pass."""
        return self.max_abs_diff <= self.allowed and (self.top10_overlap or 0.0) >= self.least_overlap

    def __str__(self) -> str:
        overlap = self.top10_overlap
        ranked = "" if overlap is None else f"top-10 overlap {overlap:.4f}, {self.least_overlap} is needed; "
        return (
            f"{self.engine.file}: {'passed' if self.passed else 'FAILED'}, max |difference| {self.max_abs_diff:.2e} of "
            f"{self.allowed} allowed, on {self.pairs} pairs and {len(self.shapes)} shapes; {ranked}built in "
            f"{self.engine.build_seconds:.0f} s by {self.engine.library} {self.engine.version} for {self.engine.gpu}; "
            f"fused kernels: {self.engine.attention}"
        )


def add_engines(
    bundle: Bundle,
    precisions: Sequence[Precision],
    *,
    device: int = 0,
    lengths: npt.NDArray[np.int64] | None = None,
    options: BuildOptions | None = None,
    max_length: int | None = None,
    tokens: int = TOKENS,
    refit_from: Bundle | None = None,
    trust_engines: bool = False,
    cache: bool = False,
    judging: JudgingSet | None = None,
    progress: Progress = lambda text: None,
) -> tuple[Bundle, tuple[EngineCheck, ...]]:
    """Build an engine for each precision and put all into the bundle, in one step, replacing those of the same GPU and TensorRT.

    `lengths`, int64 [n], of the user's pairs in tokens tell which shapes kernels are chosen for; `max_length` and `tokens`
    bound a pair's and a batch's tokens, and so the memory that the engine takes. Without a timing cache in `options` there is
    one in the user's cache. With `refit_from`, a bundle of the same shape with a refittable engine, that engine takes this
    bundle's weights and nothing is built; it needs `trust_engines`, since that engine is loaded. With `cache` the engines go
    to the user's cache instead, but for those that are there already, and whoever builds the same waits for it. INT8 is judged
    by how it ranks `judging`; see `check_engine`. Takes minutes for each; `progress` is told what is being done.

    Raises BackendError without a GPU or TensorRT, OptionError for shapes that the model does not take and for an engine that
    is not trusted, and ParityError, with the bundle as it was, when an engine's scores are others.
    """
    if refit_from is not None and not trust_engines:
        raise OptionError(
            f"refit_from: the engine in {refit_from.path} came with that bundle, and TensorRT runs what is in it as machine "
            "code; if you built it, or trust who did, allow it with trust_engines=True (--trust-engines)"
        )
    gpu, library = here(device)
    unknown = [precision.value for precision in precisions if precision not in ALLOWED]
    if unknown:
        raise OptionError(f"no engine is built in {', '.join(unknown)}; one or more of fp32, fp16, int8")
    for precision in precisions:
        bundle.model_file(precision)  # before minutes are spent
    positions = bundle.manifest.max_positions
    if max_length is not None and not 1 <= max_length <= positions:
        raise OptionError(f"max_length={max_length}: the model has positions for {positions} tokens; give 1 to that")
    version = backend_version(library)
    options = options or BuildOptions()
    making = _Making(
        bundle=bundle,
        gpu=gpu,
        library=library,
        version=version,
        device=device,
        profiles=profiles_for(max_length or positions, lengths=lengths, tokens=tokens),
        options=replace(options, timing_cache=options.timing_cache or _timings(gpu, version)),
        refit_from=refit_from,
        judging=judging,
        progress=progress,
    )
    if not cache:
        checks = making.publish(bundle.path, precisions, replace_engines=False)
        return Bundle.open(bundle.path), checks
    checks = ()
    kept = EngineCache.of_user()
    if kept is None:
        raise BackendError(f"engines cannot be kept, since this user has no home directory: {ADVICE}")
    for precision in precisions:
        names = {"gpu": gpu, "library": library, "version": version}
        entry = kept.entry(bundle, precision, **names, profiles=making.profiles)  # type: ignore[arg-type]
        with kept.locked(entry):
            if making.is_made(entry):
                progress(f"{entry} holds the {precision.value} engine already")
            else:
                checks += making.publish(entry, [precision], replace_engines=True)
    return bundle, checks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """Engines of a bundle in the making."""

    bundle: Bundle
    gpu: Gpu
    library: str
    version: str
    device: int
    profiles: tuple[Profile, ...]
    options: BuildOptions
    refit_from: Bundle | None
    judging: JudgingSet | None
    progress: Progress

    def publish(
        self, target: Path, precisions: Sequence[Precision], *, replace_engines: bool
    ) -> tuple[EngineCheck, ...]:
        """Put engines that have passed into the bundle at `target`; with `replace_engines` one that holds nothing else."""
        manifest = self.bundle.manifest
        left_out = {MANIFEST}
        if replace_engines:
            wanted = {precision.value for precision in precisions}
            models = {name: model for name, model in manifest.models.items() if name in wanted}
            # Two precisions may share a file: BF16 has FP32's.
            files = {file for model in manifest.models.values() for file in model.files}
            files -= {file for model in models.values() for file in model.files}
            left_out |= (
                {engine.file for engine in manifest.engines}
                | files
                | {f"{file}{end}" for file in files for end in (".data", "_data")}
            )
            manifest = replace(manifest, models=models, engines=())
        checks = []
        with published_directory(target, force=True) as partial:
            _link(self.bundle.path, partial, left_out)
            for precision in precisions:
                engine, plan = self.engine(precision)
                (partial / engine.file).unlink(missing_ok=True)  # a link to the old one, which must stay as it is
                (partial / engine.file).write_bytes(plan)
                kept = tuple(other for other in manifest.engines if other.file != engine.file)
                # The newest first: where several could run, as one for later versions beside one for this, it is taken.
                manifest = replace(manifest, engines=(engine, *kept))
                write_manifest(partial, manifest)
                self.progress(f"{engine.file}: comparing its scores with the ONNX model's")
                check = check_engine(
                    Bundle.open(partial), engine, device=f"cuda:{self.device}", full=self.bundle, judging=self.judging
                )
                if not check.passed:
                    fused = self.refit_from is None and not self.options.unfused_attention
                    hint = UNFUSED_HINT if fused else ""
                    raise ParityError(f"{target} stays as it was: {check}{hint}", check)
                checks.append(check)
        return tuple(checks)

    def engine(self, precision: Precision) -> tuple[EngineFile, bytes]:
        """Build, or refit, an engine; return what the manifest says of it, and its plan."""
        model = self.bundle.model_file(precision, gpu=takes_file_for_gpus(self.version))
        # All that it is bound to, so that engines for several GPUs and versions lie side by side.
        bound = f"{_slug(self.gpu.name)}-{self.gpu.capability}.{_slug(self.library)}-{self.version}"
        file = f"model.{precision.value}.{bound}.engine"
        begin = time.perf_counter()
        profiles, options = self.profiles, _described(self.options)
        if self.refit_from is None:
            self.progress(f"{file}: building by {self.library} {self.version} for {self.gpu.name}, which takes minutes")
            plan = engine_from_onnx(
                model,
                profiles,
                library=self.library,
                options=self.options,
                progress=lambda text: self.progress(f"{file}: {text}"),
            )
        else:
            old = self.refittable(self.refit_from, precision)
            self.progress(f"{file}: weights into {self.refit_from.path / old.file}")
            plan = refitted(checked_plan(self.refit_from, old), model, library=self.library)
            profiles, options = old.profiles, {**old.options, "refitted_from": old.onnx_sha256}
        layers = self.bundle.manifest.architecture.get("layers")
        attention = UNMEASURED
        if isinstance(layers, int):
            attention = fused_attention(layer_information(plan, library=self.library), layers)
        engine = EngineFile(
            file=file,
            precision=precision.value,
            library=self.library,
            version=self.version,
            gpu=self.gpu.name,
            capability=self.gpu.capability,
            profiles=profiles,
            onnx_sha256=content_sha256(model),
            build_seconds=round(time.perf_counter() - begin, 1),
            options=options,
            attention=attention,
        )
        return engine, plan

    def refittable(self, other: Bundle, precision: Precision) -> EngineFile:
        """Return the engine of another bundle that can take this one's weights. Raises BackendError where none can."""
        # Bundles of an older crossrt do not say how many token types there are.
        theirs, ours = ({**each.manifest.architecture, "token_types": None} for each in (other, self.bundle))
        if theirs != ours:
            raise BackendError(f"{other.path} holds a model of another shape than {self.bundle.path}; build an engine")
        reason = f"{other.path} holds no {precision.value} engine"
        for engine in other.manifest.engines:
            if engine.precision != precision.value:
                continue
            here = {"gpu": self.gpu.name, "capability": self.gpu.capability}
            reason = engine.mismatch(library=self.library, version=self.version, **here)
            if not reason and engine.options.get("refittable"):
                return engine
            reason = reason or f"{engine.file} was not built with --refittable"
        raise BackendError(f"no weights can be replaced: {reason}; build an engine of {self.bundle.path} instead")

    def is_made(self, entry: Path) -> bool:
        """Tell whether a whole engine with these options is there."""
        try:
            [engine] = Bundle.open(entry, verify=True).manifest.engines
        except (BundleError, ValueError):
            return False
        return _described(BuildOptions()) | dict(engine.options) == _described(self.options)


def _described(options: BuildOptions) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(options).items() if key != "timing_cache"}


def check_engine(
    bundle: Bundle, engine: EngineFile, *, device: str, full: Bundle | None = None, judging: JudgingSet | None = None
) -> EngineCheck:
    """Compare an engine of the bundle with its ONNX model on the CPU: each profile's min, opt and max, and real texts.

    Each shape is computed three times: launch by launch, once more as it is captured, and as a graph. The CPU's side is ONNX
    Runtime, since the native kernels compute INT8 by another arithmetic. An INT8 engine also ranks the lists of `judging`,
    the built-in ones unless given, beside the FP32 model of `full`, which is the same bundle unless this one holds no FP32.
    """
    precision = Precision.parse(engine.precision)
    shapes = tuple(dict.fromkeys(corners(engine.profiles)))
    opened: dict[str, Any] = {
        "precision": precision,
        "max_length": min(bundle.manifest.max_length, engine.profiles[-1].max[1]),
        "allow_failed": True,
    }
    overlap = None
    ranked = TOLERANCE[precision].top10_overlap
    with (
        CrossEncoder(bundle.path, device="cpu", backend="onnxruntime", **opened) as reference,
        CrossEncoder(
            bundle.path, device=device, backend="tensorrt", engine=engine.file, trust_engines=True, **opened
        ) as ours,
    ):
        pairs = builtin_pairs(reference.max_length)
        differences = [np.abs(ours.logits(pairs) - reference.logits(pairs))]
        vocabulary = read_tokenizer(bundle.tokenizer_file).get_vocab_size()
        for batch in batches(shapes, vocabulary):
            expected = reference.run(batch)
            differences += [np.abs(ours.run(batch) - expected) for _ in range(3)]
        worst = max(float(np.nan_to_num(each, nan=np.inf).max()) for each in differences)
        if ranked and worst <= ALLOWED[precision]:
            overlap = _overlap(ours, full or bundle, judging or JudgingSet.builtin(), opened["max_length"])
    return EngineCheck(
        engine=engine,
        shapes=shapes,
        pairs=len(pairs),
        max_abs_diff=worst,
        allowed=ALLOWED[precision],
        top10_overlap=overlap,
        least_overlap=ranked,
    )


def _overlap(ours: CrossEncoder, full: Bundle, judging: JudgingSet, max_length: int) -> float:
    """The mean overlap of the top ten with those of a bundle's FP32 model on the CPU."""
    with CrossEncoder(full.path, device="cpu", backend="onnxruntime", max_length=max_length) as reference:
        expected, found = (model.relevance(model.logits(judging.pairs)) for model in (reference, ours))
    return float(
        np.mean([top_overlap(expected[rows.start : rows.stop], found[rows.start : rows.stop]) for rows in judging.rows])
    )


def corners(profiles: Sequence[Profile]) -> Iterator[Shape]:
    """Yield each profile's min, opt and max; its min is what no earlier one takes. No pair is shorter than three tokens."""
    shortest = 3
    for profile in profiles:
        for rows, tokens in (profile.min, profile.opt, profile.max):
            yield rows, max(tokens, min(shortest, profile.max[1]))
        shortest = profile.max[1] + 1


def batches(shapes: Sequence[Shape], vocabulary: int) -> Iterator[Batch]:
    """Yield a batch of random tokens, without padding, of each shape."""
    chance = np.random.default_rng(0)
    for shape in shapes:
        ids = chance.integers(0, vocabulary, shape)
        types = (np.arange(shape[1]) >= shape[1] // 4).astype(np.int64)
        yield Batch(
            input_ids=ids,
            attention_mask=np.ones_like(ids),
            token_type_ids=np.broadcast_to(types, shape).copy(),
            rows=np.arange(shape[0]),
        )


def here(device: int = 0) -> tuple[Gpu, str]:
    """Return the GPU and the TensorRT library at hand. Raises BackendError, saying what is missing."""
    present = gpus()
    if len(present) <= device:
        raise BackendError(
            f"TensorRT engines are built and checked on the GPU that they are for, and there is no cuda:{device} here: "
            "install the NVIDIA driver, or build the engines on the machine that will score"
        )
    library = next((name for name in LIBRARIES if importlib.util.find_spec(name) is not None), None)
    if library is None:
        raise BackendError(
            'TensorRT is not installed: pip install "crossrt[tensorrt]", or "crossrt[rtx]" for GeForce and RTX GPUs'
        )
    return present[device], library


def _link(source: Path, target: Path, left_out: Collection[str]) -> None:
    """Give a bundle's files a second name, or copy them where the file system cannot."""
    for path in source.rglob("*"):
        name = path.relative_to(source)
        if name.as_posix() in left_out or not path.is_file():
            continue
        copy = target / name
        copy.parent.mkdir(exist_ok=True)
        try:
            os.link(path, copy)
        except OSError:
            shutil.copy(path, copy)


def _timings(gpu: Gpu, version: str) -> Path | None:
    folder = cache_folder(TIMINGS)
    return None if folder is None else folder / f"{_slug(gpu.name)}.{version}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
