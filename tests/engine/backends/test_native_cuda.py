"""The native kernels for GPUs compute what NumPy computes: their source is compiled for the CPU, over a device in memory."""

import ctypes
import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cuda.bindings")

from crossrt.engine.backends.native_cuda import MAX_TOKENS, NativeGpuExecutor, macros_of
from crossrt.engine.batching.packed_layout import TILE, PackedLayout
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.native_weights import DTYPES, PANEL, ModelDims, NativeModel
from crossrt.engine.errors import BackendError, BundleError, InputError, ShapeError
from crossrt.engine.precision import Precision
from crossrt.engine.runtime.gpu_scorer import GpuScorer
from crossrt.engine.selection.execution_config import GpuConfig
from crossrt.engine.text.encoded_pairs import EncodedPairs
from tests.engine.backends import emulated_gpu, native_arithmetic
from tests.engine.backends.emulated_gpu import EmulatedKernels, EmulatedProducts, emulation
from tests.engine.backends.native_arithmetic import logits_of
from tests.engine.backends.test_native_cpu import MODERN, bundle_of, dims_of, random_arrays
from tests.engine.cuda.simulated_gpu import SimulatedGpu

__all__ = ["bundle_of"]

CONFIG = GpuConfig(backend="native", precision=Precision.FP16, reason="", ordinals=(0,))
compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++ here, which compiles the kernels for the processor"
)


def pairs_of(lengths: list[int], dims: ModelDims, seed: int = 0) -> EncodedPairs:
    chance = np.random.default_rng(seed)
    offsets = np.concatenate(([0], np.cumsum(np.array(lengths, dtype=np.int64)))).astype(np.int64)
    return EncodedPairs(
        ids=chance.integers(0, dims.vocab, offsets[-1]).astype(np.int32),
        type_ids=chance.integers(0, dims.types or 2, offsets[-1]).astype(
            np.uint8
        ),  # some tokenizers give what no model has
        offsets=offsets,
    )


def expected_of(dims: ModelDims, pairs: EncodedPairs, arrays: Mapping[str, Any] | None = None) -> Any:
    arrays = random_arrays(dims) if arrays is None else arrays
    known = tuple(np.asarray(arrays[name], dtype=DTYPES[dtype]) for name, dtype, _ in dims.tensors())
    cuts = [slice(begin, end) for begin, end in zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True)]
    return logits_of(NativeModel(dims, known), [(pairs.ids[cut], pairs.type_ids[cut]) for cut in cuts])


def for_gpus(dims: ModelDims, arrays: Mapping[str, Any]) -> tuple[ModelDims, dict[str, Any]]:
    """Return the same model in the layout for GPUs: weights [outputs, inputs], the last layer's keys and values as one."""

    def matrix(panels: Any) -> Any:
        return panels.swapaxes(1, 2).reshape(panels.shape[0] * PANEL, -1)

    last, width = f"layer.{dims.layers - 1}", dims.width
    made = {}
    if not dims.is_modern:
        keys = np.concatenate([matrix(head).T for head in arrays[f"{last}.key.weight"]])
        bias = arrays[f"{last}.value.bias"]
        made = {
            f"{last}.key_value.weight": np.concatenate([keys, matrix(arrays[f"{last}.value.weight"])]),
            f"{last}.key_value.bias": np.concatenate([np.zeros_like(bias), bias]),
        }
    for name, array in arrays.items():
        if name.startswith("head.") and not name.startswith((f"head.{dims.dense - 1}.", "head.norm")):
            array = np.pad(array.T, [(0, width - side) for side in array.shape])
        made.setdefault(name, matrix(array) if array.ndim == 4 else array)
    return dataclasses.replace(dims, precision="fp16"), made


@pytest.fixture
def opened(bundle_of: Callable[..., Bundle], tmp_path: Path) -> Any:
    """Return a function that opens a random model on a device in memory."""
    pipelines = []

    def open_one(dims: ModelDims, arrays: Mapping[str, Any] | None = None) -> tuple[GpuScorer, SimulatedGpu]:
        device = SimulatedGpu(total=4 << 30)
        bundle = bundle_of(*for_gpus(dims, random_arrays(dims) if arrays is None else arrays))
        with device.current():
            executor = NativeGpuExecutor(bundle, device, **emulation(tmp_path / f"kernels{len(pipelines)}"))
        pipelines.append(GpuScorer(bundle, CONFIG, [executor]))
        return pipelines[-1], device

    yield open_one
    for pipeline in pipelines:
        pipeline.close()


ALLOWED = 0.03
"""What FP16 may differ by, of bundles too."""
LENGTHS = [1, 16, 17, 64, 65, 145]


@compiler
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"hidden": 96, "heads": 3, "head": 32, "types": 0, "activation": "relu", "layers": 3},
        {"hidden": 40, "heads": 2, "head": 64, "intermediate": 160, "labels": 3, "activation": "gelu"},
        {"hidden": 192, "heads": 1, "head": 128, "dense": 1, "activation": "none", "epsilon": 1e-5},
        {"layers": 1, "types": 1},
        {"hidden": 40, "embedding": 96, "head_norm": True},
    ],
    ids=["bert", "no types", "padded", "one dense layer", "one layer", "projected, norm in the head"],
)
def test_the_kernels_compute_what_numpy_computes(opened: Any, fields: dict[str, Any]) -> None:
    dims = dims_of(precision="fp32", **fields)
    pipeline, device = opened(dims)
    pairs = pairs_of(LENGTHS, dims)
    expected = expected_of(dims, pairs)
    for _ in range(3):  # launched, captured, and as a graph
        found = pipeline.submit(pairs, batch_size=1).wait()
        assert np.abs(found - expected).max() < ALLOWED
    assert np.abs(expected).mean() > 0.2
    pipeline.close()
    assert device.left_behind == []


SMALL = {**MODERN, "precision": "fp32", "hidden": 40, "head": 64, "layers": 2, "labels": 3}
"""A ModernBERT whose kernels several tests compile."""
MODERN_LENGTHS = [1, 16, 17, 64, 65, 145, 300]


def modern_arrays(dims: ModelDims, has_window: list[int], *, biased: bool = True, seed: int = 0) -> dict[str, Any]:
    """Random weights. Without `biased`, what is added to the sums has no bias, as in published models."""
    arrays = random_arrays(dims, seed) | {"has_window": np.array(has_window, dtype=np.int32)}
    for name in arrays:
        if name.endswith(("attention_output.bias", ".output.bias")) and not biased:
            arrays[name] = np.zeros_like(arrays[name])
    return arrays


@compiler
@pytest.mark.parametrize(
    ("fields", "has_window", "biased"),
    [
        ({"layers": 3}, [0, 1, 1], False),
        ({"layers": 3, "pooling": "mean", "activation": "gelu"}, [0, 1, 1], True),
        (
            {"hidden": 96, "head": 128, "heads": 1, "intermediate": 160, "window": 64, "dense": 1, "head_norm": False},
            [1, 0],
            True,
        ),
    ],
    ids=["cls", "mean", "full last layer"],
)
def test_a_modernbert_is_computed_as_numpy_computes_it(
    opened: Any, fields: dict[str, Any], has_window: list[int], biased: bool
) -> None:
    dims = dims_of(**SMALL | fields)
    arrays = modern_arrays(dims, has_window, biased=biased)
    pipeline, device = opened(dims, arrays)
    runs = 1 if biased else 3
    pairs = pairs_of(MODERN_LENGTHS if biased else LENGTHS, dims)
    expected = expected_of(dims, pairs, arrays)
    for _ in range(runs):  # launched, captured, and as a graph, where sums begin anew
        found = pipeline.submit(pairs, batch_size=1).wait()
        assert np.abs(found - expected).max() < ALLOWED
    assert np.abs(expected).mean() > 0.2
    pipeline.close()
    assert device.left_behind == []


@compiler
def test_sums_of_a_modernbert_that_half_precision_cannot_hold_are_computed(opened: Any) -> None:
    """A channel grows beyond FP16 in one layer, and is taken back in the next."""
    dims = dims_of(**SMALL)
    arrays = modern_arrays(dims, [0, 1])
    arrays["layer.0.output.bias"][3] += 3e5
    arrays["layer.1.attention_output.bias"][3] -= 3e5
    arrays["layer.1.attention_norm.weight"] *= 1e4  # the others are small beside it
    arrays["layer.1.attention_norm.weight"][3] = 0
    pipeline, _ = opened(dims, arrays)
    pairs = pairs_of([17, 65], dims)
    found = pipeline.submit(pairs, batch_size=1).wait()
    assert np.abs(found - expected_of(dims, pairs, arrays)).max() < ALLOWED


@compiler
def test_gated_values_that_half_precision_cannot_hold_are_computed(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded, largest = native_arithmetic._rounded, [0.0]

    def recording(dims: ModelDims, values: Any) -> Any:
        largest.append(np.abs(values).max())
        return rounded(dims, values)

    monkeypatch.setattr(native_arithmetic, "_rounded", recording)
    dims = dims_of(**SMALL)
    arrays = modern_arrays(dims, [0, 1])
    arrays["layer.0.intermediate.weight"] *= 200  # values and gates of some hundreds
    arrays["layer.0.output.weight"] /= 1000
    pipeline, _ = opened(dims, arrays)
    pairs = pairs_of([17, 65], dims)
    found = pipeline.submit(pairs, batch_size=1).wait()
    assert np.abs(found - expected_of(dims, pairs, arrays)).max() < ALLOWED
    assert max(largest) > np.finfo(np.float16).max


@compiler
def test_a_score_is_its_pairs_own_whatever_lies_beside_it(opened: Any) -> None:
    dims = dims_of(precision="fp32")
    pipeline, _ = opened(dims)
    pairs = pairs_of(LENGTHS, dims)
    together = pipeline.submit(pairs, batch_size=1).wait()
    for row in (0, 3, 5):
        cut = slice(pairs.offsets[row], pairs.offsets[row + 1])
        alone = EncodedPairs(
            ids=pairs.ids[cut],
            type_ids=pairs.type_ids[cut],
            offsets=np.array([0, cut.stop - cut.start], dtype=np.int64),
        )
        np.testing.assert_allclose(pipeline.submit(alone, batch_size=1).wait()[0], together[row], atol=2e-3)


def with_mutants(folder: Path, mutants: Iterable[tuple[str, str, str]]) -> Path:
    """Write the source with all wrong expressions; the variable `mutant` says which of them is computed, by its place.

    Each mutant is a piece of the source with {} for an expression, the expression, and a wrong one. All are in one library, which
    is compiled once.
    """
    source = emulated_gpu.SOURCE.read_text(encoding="utf-8")
    for place, (piece, right, wrong) in enumerate(mutants):
        assert piece.format(right) in source
        source = source.replace(piece.format(right), piece.format(f"(mutant == {place} ? ({wrong}) : ({right}))"))
    file = folder / "encoder.cu"
    file.write_text('extern "C" { int mutant; }\n' + source, encoding="utf-8")
    return file


def difference_of_mutant(number: int, bundle: Bundle, pairs: EncodedPairs, expected: Any, folder: Path) -> float:
    """Return the most by which the logits of a mutant differ from what is expected."""
    made: list[EmulatedKernels] = []

    def kernels(device: Any, macros: Mapping[str, object]) -> EmulatedKernels:
        made.append(EmulatedKernels(device, macros, folder / "kernels"))
        return made[-1]

    device = SimulatedGpu(total=4 << 30)
    with device.current():
        executor = NativeGpuExecutor(bundle, device, kernels=kernels, products=EmulatedProducts)
    pipeline = GpuScorer(bundle, CONFIG, [executor])
    ctypes.c_int.in_dll(made[0].library, "mutant").value = number
    difference = np.abs(pipeline.submit(pairs, batch_size=1).wait() - expected).max()
    pipeline.close()
    return float(difference)


MUTANTS = [
    ("if (key >= {}) one", "block_keys", "block_keys + 16"),  # attention to padding
    ("tile_key += {}", "TILE", "2 * TILE"),  # keys are left out
    ("first_key += {}", "KEY_BLOCK", "2 * KEY_BLOCK"),
    ("sums[half] *= {};", "rescale", "1"),  # the softmax is not rescaled
    ("sum_of_warp(squares) / {}", "CHANNELS", "WIDTH"),  # padding counts in the variance
    ("+ positions[{}]", "channel + 1", "channel"),
]


@compiler
@pytest.mark.parametrize("number", range(-1, len(MUTANTS)), ids=["none", *(f"{p}-{w}" for p, _, w in MUTANTS)])
def test_a_wrong_kernel_is_noticed(
    bundle_of: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(emulated_gpu, "SOURCE", with_mutants(tmp_path, MUTANTS))
    dims = dims_of(precision="fp32", hidden=36, heads=2, layers=3)
    arrays = random_arrays(dims)
    pairs = pairs_of([1, 16, 65, 300], dims)
    bundle = bundle_of(*for_gpus(dims, arrays))
    difference = difference_of_mutant(number, bundle, pairs, expected_of(dims, pairs, arrays), tmp_path)
    assert (difference < ALLOWED) == (number < 0)


# And what the head reads.
MODERN_MUTANTS = [
    ("2 * WINDOW", "(2 * WINDOW + 4)", "mean"),  # keys too many
    ("distance > 15 + WINDOW || distance < -15 - WINDOW", "distance > WINDOW || distance < -WINDOW", "mean"),  # too few
    ("first_query - WINDOW", "first_query", "mean"),
    ("first_query + TILE + WINDOW", "first_query + TILE", "mean"),
    ("lengths[row] < FIRST_SEES", "true", "cls"),
    ("before * cosine - second * sine", "before * cosine + second * sine", "cls"),
    ("angles + (long long)row * HEAD", "angles + (long long)(row ^ 1) * HEAD", "cls"),  # of other positions
    ("part / 2 * 32 % HEAD / 2 + part % 2 * 8", "part / 2 * 32 % HEAD / 2", "cls"),  # of other planes
    ("erff(values[i] * 0.70710678f)", "erff(gates[i] * 0.70710678f)", "cls"),  # the gates are activated
    ("total[channel] / length", "total[channel] / (length + 1)", "mean"),
    ("warp ? total[channel] + own[i] : own[i]", "own[i]", "mean"),
]


@compiler
@pytest.mark.parametrize(
    "number", range(-1, len(MODERN_MUTANTS)), ids=["none", *(right for right, _, _ in MODERN_MUTANTS)]
)
def test_a_wrong_kernel_of_a_modernbert_is_noticed(
    bundle_of: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    mutants = [("{}", right, wrong) for right, wrong, _ in MODERN_MUTANTS]
    monkeypatch.setattr(emulated_gpu, "SOURCE", with_mutants(tmp_path, mutants))
    dims = dims_of(**SMALL | {"pooling": MODERN_MUTANTS[number][2]})
    # With other seeds some mutants change the logits by less than is allowed.
    arrays = modern_arrays(dims, [1, 1], seed=5)
    pairs = pairs_of([1, 16, 145], dims)
    bundle = bundle_of(*for_gpus(dims, arrays))
    difference = difference_of_mutant(number, bundle, pairs, expected_of(dims, pairs, arrays), tmp_path)
    assert (difference < ALLOWED) == (number < 0)


@compiler
def test_the_emulated_halves_are_ieees(tmp_path: Path) -> None:
    kernels = EmulatedKernels(
        SimulatedGpu(),
        macros_of(dims_of(), []),
        tmp_path / "kernels",
    )
    to_half, to_float = kernels.library.emulated_half, kernels.library.emulated_float
    to_half.argtypes, to_float.restype = [ctypes.c_float], ctypes.c_float
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    assert [to_float(int(bits)) for bits in finite.view(np.uint16)] == finite.astype(np.float64).tolist()
    chance = np.random.default_rng(0)
    numbers = np.concatenate(
        [chance.normal(0, 10.0**power, 300) for power in range(-9, 6)]
        + [finite[:1].astype(np.float64), [65519.0, 65520.0]]
    ).astype(np.float32)
    with np.errstate(over="ignore"):
        assert [to_half(number) & 0xFFFF for number in numbers.tolist()] == numbers.astype(np.float16).view(
            np.uint16
        ).tolist()


@compiler
def test_tokens_that_the_model_does_not_have_are_refused(opened: Any) -> None:
    dims = dims_of(precision="fp32")
    pipeline, _ = opened(dims)
    for ids, types, offsets in (  # which a kernel would read beyond its tables for
        ([3, 50], [0, 0], [0, 2]),
        ([-1, 3], [0, 0], [0, 2]),
        ([3, 4], [0, 2], [0, 2]),
        ([3, 4], [0, 0], [0, 2, 2]),
    ):
        wrong = EncodedPairs(
            ids=np.array(ids, np.int32), type_ids=np.array(types, np.uint8), offsets=np.array(offsets, np.int64)
        )
        with pytest.raises(InputError, match="token ids or types that the model does not have"):
            pipeline.submit(wrong, batch_size=1).wait()
    with pytest.raises(ShapeError, match="a pair of 301 tokens, and this engine takes up to 300"):
        pipeline.submit(pairs_of([301], dims), batch_size=1)


class NoKernels:
    """See `CudaKernels`. For tests that compute nothing."""

    def launch(self, *arguments: Any) -> None:
        raise AssertionError

    def close(self) -> None:
        pass


def test_too_little_device_memory_says_how_much_is_needed(bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of(precision="fp32")
    bundle = bundle_of(*for_gpus(dims, random_arrays(dims)))
    device = SimulatedGpu(total=1 << 12)
    with (
        device.current(),
        pytest.raises(BackendError, match=r"the weights need \d+\.\d MB on the device, 0\.0 MB are free"),
    ):
        NativeGpuExecutor(bundle, device, kernels=lambda *rest: NoKernels(), products=EmulatedProducts)
    assert device.left_behind == []


def test_a_file_of_another_model_or_for_processors_is_refused(bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of(precision="fp32")
    bundle = bundle_of(*for_gpus(dims, random_arrays(dims)))
    longer = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, max_positions=512))
    with pytest.raises(BundleError, match="of another model than the manifest; export the bundle again"):
        NativeGpuExecutor(longer, SimulatedGpu())
    full = bundle_of(dims, random_arrays(dims))
    models = {"fp16": full.manifest.models["fp32"]}
    with pytest.raises(BundleError, match="of another model than the manifest"):
        NativeGpuExecutor(
            dataclasses.replace(full, manifest=dataclasses.replace(full.manifest, models=models)), SimulatedGpu()
        )


# -- how pairs are packed

BATCHES = PackedLayout(max_tokens=4096, max_rows=256, max_length=512, vocab=50, types=2)


def lengths_up_to(longest: int) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.integers(1, longest), max_size=400).map(lambda found: np.array(found, dtype=np.int64))


@pytest.mark.parametrize("longest", [512, 2048, 3000, 4096])  # from half a batch on, each pair may need its own
@given(data=st.data(), shares=st.integers(1, 3))
def test_every_pair_is_in_one_batch_that_fits(longest: int, data: st.DataObject, shares: int) -> None:
    lengths = data.draw(lengths_up_to(longest))
    batches = dataclasses.replace(BATCHES, max_length=longest)
    parts = batches.split(lengths, batch_cost=0, shares=shares)
    assert len(parts) >= min(shares, len(lengths)), "each device has something to do"
    assert np.concatenate([np.empty(0, int), *parts]).tolist() == list(range(len(lengths)))
    for part in parts:
        assert len(part)
        rows, tokens = batches.shape(lengths[part])
        assert len(part) <= rows <= 256
        assert lengths[part].sum() <= tokens <= 4096


def test_the_longest_pair_of_a_model_fits_into_a_batch(bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of(precision="fp32", positions=MAX_TOKENS + 7)
    bundle = bundle_of(*for_gpus(dims, random_arrays(dims)))
    device = SimulatedGpu(total=1 << 30)
    with device.current():
        executor = NativeGpuExecutor(bundle, device, kernels=lambda *rest: NoKernels(), products=EmulatedProducts)
        executor.close()
    assert executor.layout.max_length == MAX_TOKENS + 7
    assert executor.layout.shape(np.array([MAX_TOKENS + 7]))[1] >= MAX_TOKENS + 7


@settings(max_examples=50)
@given(st.lists(st.integers(1, 512), min_size=1, max_size=8), st.integers(0, 99))
def test_a_filled_batch_says_where_everything_is(lengths: list[int], seed: int) -> None:
    pairs = pairs_of([7, *lengths, 9], dims_of(), seed)
    rows = np.arange(1, len(lengths) + 1)
    shape = BATCHES.shape(pairs.lengths[rows])
    arrays = {name: np.full(size, -7, kind) for name, (kind, size) in BATCHES.arrays(shape).items()}
    BATCHES.fill(arrays, pairs, rows)
    queries = np.zeros(shape[1], dtype=int)
    for begin, length, first in arrays["tiles"]:
        queries[begin + first : begin + min(first + TILE, length)] += 1
    total = sum(lengths)
    assert (queries[:total] == 1).all(), "each token is a query of one tile"
    assert not queries[total:].any()
    for number, row in enumerate(rows):
        begin, length = arrays["begins"][number], arrays["lengths"][number]
        cut = slice(pairs.offsets[row], pairs.offsets[row + 1])
        assert arrays["ids"][begin : begin + length].tolist() == pairs.ids[cut].tolist()
        assert (arrays["places"][begin : begin + length] & 0xFFFF).tolist() == list(range(length))
        assert (arrays["places"][begin : begin + length] >> 16).tolist() == pairs.type_ids[cut].tolist()
    assert not arrays["lengths"][len(rows) :].any()
    assert not arrays["ids"][total:].any()


def test_rounding_adds_a_few_hundredths_and_makes_few_shapes() -> None:
    batches = PackedLayout(max_tokens=MAX_TOKENS, max_rows=4096, max_length=512, vocab=50, types=2)
    tokens = range(1000, MAX_TOKENS, 7)
    rounded = [batches.shape(np.array([each]))[1] for each in tokens]
    assert np.mean(np.array(rounded) / np.array(tokens)) < 1.05
    assert len(set(rounded)) < 60
