"""`EngineCheck`: how much an engine's scores differ from those of the ONNX model from which it was built.

The reference is the bundle's own ONNX model of the same precision on the CPU. It has already passed the comparison with PyTorch
and the limits on rankings. So engines can be checked without torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...calibration.judging_set import JudgingSet
from ...calibration.ranking import top_overlap
from ...engine.batching.batch import Batch
from ...engine.bundle.bundle import Bundle
from ...engine.bundle.engine_file import EngineFile
from ...engine.bundle.profiles import Profile, Shape
from ...engine.cross_encoder import CrossEncoder
from ...engine.precision import Precision
from ...engine.text.tokenizer import read_tokenizer
from ..parity.pairs import builtin_pairs
from ..precision.tolerance import TOLERANCE

ALLOWED = {Precision.FP32: 2e-3, Precision.FP16: 0.03, Precision.INT8: 0.5}
"""The largest allowed difference of a logit. FP32's limit allows for a different order of summation; TF32 is off. In INT8, a
single value that is rounded to its other neighbour changes a logit by some hundredths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCheck:
    """How much an engine's logits differ from the ONNX model's, at each profile's corners and on the built-in pairs.

    `top10_overlap` is only for INT8. It is the mean overlap, over ranked lists, of the top ten with that of the bundle's FP32
    model on the CPU, and must be at least `least_overlap`. It is None for other precisions and if the logits have already failed.
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
        """Whether the engine may be put into a bundle. NaN does not pass."""
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


def check_engine(
    bundle: Bundle, engine: EngineFile, *, device: str, fp32: Bundle | None = None, judging: JudgingSet | None = None
) -> EngineCheck:
    """Compare an engine of the bundle with its ONNX model on the CPU: each profile's min, opt and max, and real texts.

    Each shape is computed three times: launch by launch, again while a CUDA graph is captured, and by that graph. The CPU model
    runs in ONNX Runtime, because the native kernels compute INT8 with a different arithmetic. An INT8 engine also ranks the lists
    of `judging`, by default the built-in ones. Its top ten are compared with those of the FP32 model of `fp32`, by default the
    same bundle. `fp32` is necessary if `bundle` has no FP32 model.
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
        ) as candidate,
    ):
        pairs = builtin_pairs(reference.max_length)
        differences = [np.abs(candidate.logits(pairs) - reference.logits(pairs))]
        vocabulary = read_tokenizer(bundle.tokenizer_file).get_vocab_size()
        for batch in batches(shapes, vocabulary):
            expected = reference.run(batch)
            differences += [np.abs(candidate.run(batch) - expected) for _ in range(3)]
        worst = max(float(np.nan_to_num(each, nan=np.inf).max()) for each in differences)
        if ranked and worst <= ALLOWED[precision]:
            overlap = _overlap(candidate, fp32 or bundle, judging or JudgingSet.builtin(), opened["max_length"])
    return EngineCheck(
        engine=engine,
        shapes=shapes,
        pairs=len(pairs),
        max_abs_diff=worst,
        allowed=ALLOWED[precision],
        top10_overlap=overlap,
        least_overlap=ranked,
    )


def _overlap(candidate: CrossEncoder, fp32: Bundle, judging: JudgingSet, max_length: int) -> float:
    """Return the mean overlap of the top ten with that of a bundle's FP32 model on the CPU."""
    with CrossEncoder(fp32.path, device="cpu", backend="onnxruntime", max_length=max_length) as reference:
        expected, scores = (model.relevance(model.logits(judging.pairs)) for model in (reference, candidate))
    return float(
        np.mean(
            [top_overlap(expected[rows.start : rows.stop], scores[rows.start : rows.stop]) for rows in judging.rows]
        )
    )


def corners(profiles: Sequence[Profile]) -> Iterator[Shape]:
    """Yield the min, opt and max shape of each profile.

    A profile's tokens are raised to the length of the shortest pair that no earlier profile takes. No pair is shorter than three
    tokens.
    """
    shortest = 3
    for profile in profiles:
        for rows, tokens in (profile.min, profile.opt, profile.max):
            yield rows, max(tokens, min(shortest, profile.max[1]))
        shortest = profile.max[1] + 1


def batches(shapes: Sequence[Shape], vocabulary: int) -> Iterator[Batch]:
    """Yield one batch of random tokens, without padding, for each shape."""
    generator = np.random.default_rng(0)
    for shape in shapes:
        ids = generator.integers(0, vocabulary, shape)
        types = (np.arange(shape[1]) >= shape[1] // 4).astype(np.int64)
        yield Batch(
            input_ids=ids,
            attention_mask=np.ones_like(ids),
            token_type_ids=np.broadcast_to(types, shape).copy(),
            rows=np.arange(shape[0]),
        )
