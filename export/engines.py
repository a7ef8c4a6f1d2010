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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

from ..engine.backends import backend_version
from ..engine.bundle import MANIFEST, Bundle
from ..engine.cross_encoder import CrossEncoder
from ..engine.driver import Gpu, gpus
from ..engine.engine_file import EngineFile, Profile, Shape, profiles_for
from ..engine.errors import BackendError, OptionError, ParityError
from ..engine.plan import Batch
from ..engine.precision import Precision
from ..engine.publish import published_directory
from .manifest import write_manifest
from .pairs import builtin_pairs
from .tensorrt import TIMINGS, BuildOptions, engine_from_onnx

LIBRARIES = ("tensorrt", "tensorrt_rtx")
ALLOWED = {Precision.FP32: 2e-3, Precision.FP16: 0.03, Precision.INT8: 0.5}
"""The largest difference of a logit. FP32 leaves room for TF32 being off and other sums; in INT8 one value rounded to its
other neighbour moves a logit by some hundredths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCheck:
    """How an engine's logits differ from the ONNX model's, at each profile's corners and on the built-in pairs."""

    engine: EngineFile
    shapes: tuple[Shape, ...]
    pairs: int
    max_abs_diff: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the engine may enter a bundle. NaN does not pass."""
        return self.max_abs_diff <= self.allowed

    def __str__(self) -> str:
        return (
            f"{self.engine.file}: {'passed' if self.passed else 'FAILED'}, max |difference| {self.max_abs_diff:.2e} of "
            f"{self.allowed} allowed, on {self.pairs} pairs and {len(self.shapes)} shapes; built in "
            f"{self.engine.build_seconds:.0f} s by {self.engine.library} {self.engine.version} for {self.engine.gpu}"
        )


def add_engines(
    bundle: Bundle,
    precisions: Sequence[Precision],
    *,
    device: int = 0,
    lengths: npt.NDArray[np.int64] | None = None,
    options: BuildOptions | None = None,
) -> tuple[Bundle, tuple[EngineCheck, ...]]:
    """Build an engine for each precision and put all into the bundle, in one step, replacing those of the same GPU.

    `lengths`, int64 [n], of the user's pairs in tokens tell which shapes kernels are chosen for. Takes minutes for each.
    Raises BackendError without a GPU or TensorRT, and ParityError, with the bundle as it was, when an engine's scores are
    others.
    """
    gpu, library = here(device)
    models = [(precision, bundle.model_file(precision, gpu=True)) for precision in precisions]
    unknown = [precision.value for precision in precisions if precision not in ALLOWED]
    if unknown:
        raise OptionError(f"no engine is built in {', '.join(unknown)}; one or more of fp32, fp16, int8")
    options = options or BuildOptions(timing_cache=TIMINGS / f"{_slug(gpu.name)}.{backend_version(library)}")
    profiles = profiles_for(bundle.manifest.max_positions, lengths=lengths)
    with published_directory(bundle.path, force=True) as partial:
        _link(bundle.path, partial)
        checks = []
        manifest = bundle.manifest
        for precision, model in models:
            begin = time.perf_counter()
            plan = engine_from_onnx(model, profiles, library=library, options=options)
            engine = EngineFile(
                file=f"model.{precision.value}.{_slug(gpu.name)}.engine",
                precision=precision.value,
                library=library,
                version=backend_version(library),
                gpu=gpu.name,
                capability=gpu.capability,
                profiles=profiles,
                onnx_sha256=bundle.sha256(model.name),
                build_seconds=round(time.perf_counter() - begin, 1),
                options={key: value for key, value in dataclasses.asdict(options).items() if key != "timing_cache"},
            )
            (partial / engine.file).unlink(missing_ok=True)  # a link to the old one, which must stay as it is
            (partial / engine.file).write_bytes(plan)
            others = tuple(other for other in manifest.engines if other.file != engine.file)
            manifest = replace(manifest, engines=(*others, engine))
            write_manifest(partial, manifest)
            check = check_engine(Bundle.open(partial), engine, device=f"cuda:{device}")
            if not check.passed:
                raise ParityError(f"{bundle.path} stays as it was: {check}", check)
            checks.append(check)
    return Bundle.open(bundle.path), tuple(checks)


def check_engine(bundle: Bundle, engine: EngineFile, *, device: str) -> EngineCheck:
    """Compare an engine of the bundle with its ONNX model on the CPU: each profile's min, opt and max, and real texts."""
    precision = Precision.parse(engine.precision)
    shapes = tuple(dict.fromkeys(shape for profile in engine.profiles for shape in corners(profile)))
    worst = 0.0
    with (
        CrossEncoder(bundle.path, precision=precision, device="cpu", allow_failed=True) as reference,
        CrossEncoder(bundle.path, precision=precision, device=device, backend="tensorrt", allow_failed=True) as ours,
    ):
        pairs = builtin_pairs(reference.max_length)
        differences = [np.abs(ours.logits(pairs) - reference.logits(pairs))]
        vocabulary = tokenizers.Tokenizer.from_file(str(bundle.tokenizer_file)).get_vocab_size()
        for batch in batches(shapes, vocabulary):
            differences.append(np.abs(ours._scorer.run(batch) - reference._scorer.run(batch)))
        worst = max(float(np.nan_to_num(each, nan=np.inf).max()) for each in differences)
    return EngineCheck(engine=engine, shapes=shapes, pairs=len(pairs), max_abs_diff=worst, allowed=ALLOWED[precision])


def corners(profile: Profile) -> Iterator[Shape]:
    """Yield a profile's min, opt and max. No pair is shorter than three tokens."""
    for rows, tokens in (profile.min, profile.opt, profile.max):
        yield rows, max(tokens, min(3, profile.max[1]))


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


def _link(source: Path, target: Path) -> None:
    """Give a bundle's files a second name, or copy them where the file system cannot."""
    for path in source.iterdir():
        if path.name == MANIFEST or not path.is_file():
            continue
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copy(path, target / path.name)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
