"""The native kernels compute what they say, of any dims; and what is not theirs is refused."""

import ctypes
import dataclasses
import io
import json
import os
import platform
import re
import shutil
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from crossrt.engine.backends import native_cpu
from crossrt.engine.backends.native_cpu import NativeSession
from crossrt.engine.batching.batch import Batch
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.native_weights import (
    ACTIVATIONS,
    DTYPES,
    MAX_DIMS,
    OUTLIER_CHANNELS,
    ModelDims,
    NativeModel,
    hidden_activations,
    padded,
    write,
)
from crossrt.engine.errors import BackendError, BundleError, InputError, ShapeError
from crossrt.engine.hardware.cpus import instructions
from crossrt.engine.kernels.encoder import EncoderDims
from crossrt.engine.kernels.instruction_sets import PROCESSOR_KINDS, ProcessorKind
from crossrt.engine.kernels.support import native_kind, only_kinds, why_not_native
from crossrt.engine.native_library import native_library
from crossrt.engine.precision import Precision
from crossrt.engine.runtime.cpu_scorer import CpuScorer
from crossrt.engine.selection.execution_config import CpuConfig
from tests.conftest import REPOSITORY
from tests.engine.backends.native_arithmetic import logits_of

COMPUTED = [
    precision.value for precision in (Precision.INT8, Precision.BF16, Precision.FP32) if not why_not_native(precision)
]
"""Precisions that the kernels can compute on this processor. Tests that open a session of another one are skipped."""

HIDDEN_ACTIVATIONS = hidden_activations(for_gpus=False, gated=True)
POSITIONS = 300


def dims_of(**others: Any) -> ModelDims:
    known: dict[str, Any] = {
        "precision": (COMPUTED or ["fp32"])[0],
        "hidden": 64,
        "heads": 2,
        "head": 32,
        "intermediate": 96,
        "layers": 2,
        "types": 2,
        "vocab": 50,
        "positions": POSITIONS,
        "labels": 1,
        "dense": 2,
        "activation": "tanh",
        "epsilon": 1e-12,
    }
    known |= others
    is_bert, is_int8 = known.get("architecture", "bert") == "bert", known["precision"] == "int8"
    return ModelDims(**{"activation_balance": is_bert and is_int8, "rotated": is_int8} | known)


def random_arrays(dims: ModelDims, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return random weights that keep activations at a scale of about 1, with zeros where widths are padded."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, dtype, shape in dims.tensors():
        if dtype == "I8":
            arrays[name] = rng.integers(-127, 128, shape)
        elif len(shape) >= 4:
            numbers = rng.normal(0, 1 / np.sqrt(shape[-3] * shape[-1]), shape).astype(np.float32)
            if dtype == "BF16":
                numbers = (numbers.view(np.uint32) >> 16).astype(np.uint16)
            if name.endswith(("output.weight", "project.weight")):  # panels of the padded outputs
                outputs = np.arange(shape[0] * shape[2]).reshape(shape[0], 1, shape[2], 1)
                numbers *= (outputs < dims.hidden).astype(numbers.dtype)
            elif name.endswith("key.weight"):
                outputs = np.arange(shape[1] * shape[3]).reshape(1, shape[1], 1, shape[3], 1)
                numbers *= (outputs < dims.hidden).astype(numbers.dtype)
            arrays[name] = numbers
        elif name.endswith(".scale"):
            inputs = arrays[name.replace("scale", "weight")].shape[1] * 4
            arrays[name] = rng.uniform(0.5, 1.5, shape) / 73 / np.sqrt(inputs)
        elif name.endswith(".sums"):
            weight = arrays[name.replace("sums", "weight")]
            arrays[name] = weight.sum(axis=(1, 3)).reshape(shape) * arrays[name.replace("sums", "scale")]
        elif name.startswith("rotary"):
            angles = rng.uniform(-np.pi, np.pi, (shape[0], shape[1] // 2))
            arrays[name] = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
            arrays[name][0] = np.repeat([1.0, 0.0], shape[1] // 2)  # [CLS] is not rotated
        elif name == "has_window":
            arrays[name] = rng.integers(0, 2, shape)
        elif name == "kept":
            arrays[name] = np.stack([rng.permutation(dims.intermediate)[:OUTLIER_CHANNELS] for _ in range(dims.layers)])
        elif name.endswith(("norm.weight", "balance")):
            arrays[name] = rng.uniform(0.5, 1.5, shape)
        elif name.startswith("head."):
            arrays[name] = rng.normal(0, 0.2, shape)
        else:
            arrays[name] = rng.normal(0, 0.3, shape)
        channels = dims.hidden
        if dims.embedding is not None and name.startswith(("word", "position", "type", "embedding_norm")):
            channels = dims.embedding
        if arrays[name].shape[-1:] == (padded(channels),) and len(shape) < 4:
            arrays[name][..., channels:] = 0
    return arrays


@pytest.fixture
def bundle_of(bundle: Path, tmp_path: Path) -> Callable[[ModelDims, dict[str, npt.NDArray[Any]]], Bundle]:
    """Return a function that makes a bundle of a native model with these weights."""
    known = Bundle.open(bundle)

    def make(dims: ModelDims, arrays: dict[str, npt.NDArray[Any]]) -> Bundle:
        folder = tmp_path / "bundle"
        folder.mkdir(exist_ok=True)
        with (folder / "model.int8.native").open("wb") as file:
            write(file, dims, arrays)
        model = dataclasses.replace(known.manifest.models["fp32"], native_file="model.int8.native")
        fields = {"max_positions": dims.positions, "labels": dims.labels}
        manifest = dataclasses.replace(known.manifest, models={dims.precision: model}, **fields)
        return Bundle(folder, manifest)

    return make


# Those of other machines are tested in tests/engine/kernels/test_isa.py.
@pytest.fixture(
    params=[kind for kind in PROCESSOR_KINDS if platform.machine() in kind.machines], ids=lambda kind: kind.name
)
def kind(request: pytest.FixtureRequest) -> Iterator[ProcessorKind]:
    """Compute by each kind of kernels that this processor can run: one with AVX512 has the instructions of AVX2 too."""
    with only_kinds(request.param.name):
        if why := why_not_native():
            pytest.skip(f"{request.param.name}: {why}")
        yield request.param


def steps_of(kind: ProcessorKind) -> int:
    """From a row's minimum to its maximum, in INT8."""
    return 128 if kind.int8 == "narrow" else 254


def arithmetic_of(kind: ProcessorKind, precision: str) -> dict[str, Any]:
    """How `logits_of` computes what a kind does.

    INT8 multiplies softmax weights in BF16 only where that is faster than FP32, which Intel's vdpbf16ps is not.
    """
    has = {*kind.instructions}
    cpus = Path("/proc/cpuinfo")
    intel = cpus.exists() and "GenuineIntel" in cpus.read_text(encoding="utf-8")
    faster = "bf16" in has or "amx_bf16" in has or ("avx512_bf16" in has and not intel)
    return {"steps": steps_of(kind), "rounds_softmax": precision == "bf16" or faster}


def session_of(bundle: Bundle, streams: int = 1, threads: int = 1) -> Any:
    [precision] = map(Precision, bundle.manifest.models)
    if why_not_native(precision):
        pytest.skip(f"{precision.value}: {why_not_native(precision)}")
    return NativeSession(bundle, precision=precision, streams=streams, threads=threads)


def file_of(bundle: Bundle) -> Path:
    (precision,) = bundle.manifest.models
    return bundle.native_file(Precision(precision))


def a_batch(lengths: list[int], *, vocab: int = 50, types: int = 2, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    real = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return Batch(
        input_ids=rng.integers(0, vocab, real.shape) * real,
        attention_mask=real.astype(np.int64),
        token_type_ids=rng.integers(0, max(types, 1), real.shape) * real,
        rows=np.arange(len(lengths)),
    )


def pairs_of(batch: Batch) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    return [
        (batch.input_ids[row, :length], batch.token_type_ids[row, :length])
        for row, length in enumerate(batch.attention_mask.sum(axis=1))
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(  # halfway between two steps: a perturbation of 1e-6 takes NumPy from -5.69 to the kernels' -5.21
    **{"hidden": 256, "heads": 3, "head": 64, "intermediate": 160, "precision": (COMPUTED or ["fp32"])[0], "layers": 3},
    **{
        "types": 0,
        "padding": None,
        "embedding": None,
        "labels": 1,
        "dense": 2,
        "activation": "none",
        "hidden_activation": "gelu",
        "rotated": False,
        "lengths": [5],
        "seed": 179,
    },
)
@example(  # with 7 bits, a perturbation of 2e-6 takes NumPy's first logit from -1.03 to -1.49, and the kernels have -1.47
    **{"hidden": 256, "heads": 4, "head": 64, "intermediate": 32, "precision": "int8", "layers": 3, "types": 1},
    **{
        "padding": None,
        "embedding": 40,
        "labels": 3,
        "dense": 2,
        "activation": "none",
        "hidden_activation": "gelu",
        "rotated": True,
        "lengths": [31],
        "seed": 6,
    },
)
@given(
    hidden=st.sampled_from([32, 40, 64, 96, 256]),
    heads=st.integers(1, 4),
    head=st.sampled_from([32, 64]),
    intermediate=st.sampled_from([32, 96, 160]),
    precision=st.sampled_from(COMPUTED or ["fp32"]),
    layers=st.integers(1, 3),
    types=st.integers(0, 2),
    padding=st.sampled_from([None, 1]),
    embedding=st.sampled_from([None, None, 32, 40, 128]),
    labels=st.integers(1, 3),
    dense=st.integers(1, 2),
    activation=st.sampled_from(ACTIVATIONS),
    hidden_activation=st.sampled_from(HIDDEN_ACTIVATIONS),
    rotated=st.booleans(),
    lengths=st.lists(
        st.one_of(st.integers(1, 40), st.sampled_from([31, 32, 33, 63, 64, 65, 128, POSITIONS])), min_size=1, max_size=9
    ),
    seed=st.integers(0, 1000),
)
def test_the_kernels_compute_what_numpy_computes(
    kind: ProcessorKind, bundle_of: Callable[..., Bundle], lengths: list[int], seed: int, rotated: bool, **fields: Any
) -> None:
    dims = dims_of(**fields | {"rotated": rotated and fields["precision"] == "int8"})
    assume(not why_not_native(Precision(dims.precision)))  # AVX2 has no BF16
    bundle = bundle_of(dims, random_arrays(dims, seed))
    batch = a_batch(lengths, types=dims.types, seed=seed)
    session = session_of(bundle)
    try:
        computed = session.run(batch)
    finally:
        session.close()
    arithmetic = arithmetic_of(kind, dims.precision)
    expected = logits_of(NativeModel.open(file_of(bundle)), pairs_of(batch), **arithmetic)
    other = [row for row in range(len(computed)) if not np.allclose(computed[row], expected[row], rtol=0, atol=0.3)]
    if other:
        other = not_by_rounding(other, computed, expected, bundle_of, dims, batch, seed, arithmetic)
    assert not other, (computed[other], expected[other])


def not_by_rounding(
    rows: list[int],
    computed: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    bundle_of: Callable[..., Bundle],
    dims: ModelDims,
    batch: Batch,
    seed: int,
    arithmetic: dict[str, Any],
) -> list[int]:
    """Return which of these rows differ from what NumPy computes by more than numbers that were rounded the other way.

    A number halfway between two INT8 steps may be, because FP32 sums depend on their order. Then NumPy's own results spread as
    far when positions, LayerNorms and biases are perturbed by as little as that.
    """
    moved, chance = [expected], np.random.default_rng(0)
    for _ in range(32):
        arrays = random_arrays(dims, seed)
        for name in arrays:
            if name == "position" or name.endswith(("norm.weight", ".bias")):
                arrays[name] = arrays[name] * (1 + 2e-6 * chance.standard_normal(arrays[name].shape))
        moved.append(logits_of(NativeModel.open(file_of(bundle_of(dims, arrays))), pairs_of(batch), **arithmetic))
    low, high = np.min(moved, axis=0) - 0.05, np.max(moved, axis=0) + 0.05
    return [row for row in rows if not ((low[row] <= computed[row]) & (computed[row] <= high[row])).all()]


SHORT_PAIRS = [7, 12, 33, 5, 11] * 3
"""Lengths of so many pairs that the median is not of one in which a number was rounded the other way."""
PROJECTED: dict[str, Any] = {"embedding": 40}
MODERN: dict[str, Any] = {
    "architecture": "modernbert",
    "types": 0,
    "head_norm": True,
    "activation": "gelu",
    "window": 20,
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hidden=st.sampled_from([32, 40, 96]),
    heads=st.integers(1, 3),
    head=st.sampled_from([32, 64]),
    intermediate=st.sampled_from([32, 96, 160]),
    layers=st.integers(1, 3),
    pooling=st.sampled_from(["cls", "mean"]),
    window=st.one_of(st.integers(0, 70), st.just(2 * POSITIONS)),
    head_norm=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
    hidden_activation=st.sampled_from(HIDDEN_ACTIVATIONS),
    labels=st.integers(1, 3),
    lengths=st.lists(
        st.one_of(st.integers(1, 40), st.sampled_from([31, 32, 33, 63, 64, 65, 128, POSITIONS])), min_size=1, max_size=9
    ),
    threads=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_a_modernbert_is_computed_as_numpy_computes_it(
    kind: ProcessorKind, bundle_of: Callable[..., Bundle], lengths: list[int], threads: int, seed: int, **fields: Any
) -> None:
    dims = dims_of(**MODERN | {"precision": "fp32"} | fields)
    bundle = bundle_of(dims, random_arrays(dims, seed))
    batch = a_batch(lengths, types=0, seed=seed)
    session = session_of(bundle, threads=threads)
    try:
        computed = session.run(batch)
    finally:
        session.close()
    expected = logits_of(NativeModel.open(file_of(bundle)), pairs_of(batch))
    np.testing.assert_allclose(computed, expected, rtol=0, atol=5e-5)


@pytest.mark.processor
@pytest.mark.parametrize("architecture", ["bert", "bert, projected", "modernbert", "modernbert, mean"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_most_pairs_agree_with_numpy_in_all_digits(
    precision: str, architecture: str, kind: ProcessorKind, bundle_of: Callable[..., Bundle]
) -> None:
    fields = PROJECTED if "projected" in architecture else {}
    if "modernbert" in architecture:
        fields = MODERN | {"pooling": "mean" if "mean" in architecture else "cls"}
    dims = dims_of(**{"precision": precision, "hidden": 96, "heads": 3, "intermediate": 128} | fields)
    bundle = bundle_of(dims, random_arrays(dims))
    batch = a_batch([7, 19, 32, 33, 50, 64, 77, 95, 130, 11] * 4)
    session = session_of(bundle)
    arithmetic = arithmetic_of(kind, precision)
    computed, expected = session.run(batch), logits_of(NativeModel.open(file_of(bundle)), pairs_of(batch), **arithmetic)
    differences = np.abs(computed - expected)
    # The mean of all tokens has a part in every number that was rounded the other way.
    assert np.median(differences) < (1e-3 if dims.pooling == "mean" else 1e-4)
    other = np.flatnonzero(differences.max(axis=1) >= (1e-5 if precision == "fp32" else 0.1)).tolist()
    if other and precision == "int8":
        other = not_by_rounding(other, computed, expected, bundle_of, dims, batch, 0, arithmetic)
    assert not other, differences[other]


@pytest.mark.processor
@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_every_activation_is_computed_and_not_another(
    precision: str, architecture: str, activation: str, kind: ProcessorKind, bundle_of: Callable[..., Bundle]
) -> None:
    fields = {} if architecture == "bert" else MODERN
    dims = dims_of(**fields | {"precision": precision, "hidden_activation": activation})
    arrays = random_arrays(dims)
    for number in range(dims.layers):
        arrays[f"layer.{number}.intermediate.bias"] *= 3  # GELU's two forms differ most at 2
    bundle = bundle_of(dims, arrays)
    batch = a_batch(SHORT_PAIRS, types=dims.types)
    computed = session_of(bundle).run(batch)
    model = NativeModel.open(file_of(bundle))
    other = dataclasses.replace(dims, hidden_activation="gelu_tanh" if activation == "gelu" else "gelu")
    right, wrong = (
        np.median(np.abs(computed - logits_of(each, pairs_of(batch), **arithmetic_of(kind, precision))))
        for each in (model, dataclasses.replace(model, dims=other))
    )
    assert right < (5e-6 if precision == "fp32" else 1e-4)
    assert wrong > 10 * right


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
@pytest.mark.parametrize("precision", COMPUTED)
def test_a_score_is_its_pairs_own_to_the_last_bit(
    precision: str, architecture: str, kind: ProcessorKind, bundle_of: Callable[..., Bundle]
) -> None:
    dims = dims_of(**({} if architecture == "bert" else MODERN | {"layers": 3}), precision=precision)
    session = session_of(bundle_of(dims, random_arrays(dims)))
    batch = a_batch([5, 300, 17, 64, 1, 133, 90, 12, 33, 200], types=dims.types, seed=3)
    together = session.run(batch)
    for row, (ids, types) in enumerate(pairs_of(batch)):
        alone = Batch(
            input_ids=ids[None], attention_mask=np.ones_like(ids)[None], token_type_ids=types[None], rows=np.arange(1)
        )
        np.testing.assert_array_equal(session.run(alone)[0], together[row])
    backwards = Batch(**{field.name: getattr(batch, field.name)[::-1] for field in dataclasses.fields(Batch)})
    np.testing.assert_array_equal(session.run(backwards), together[::-1])


@pytest.fixture(scope="module")
def emulated_amx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library for AMX with tiles that are emulated."""
    kind = next(kind for kind in PROCESSOR_KINDS if kind.name == "amx")
    lacking = [name for name in kind.instructions if "amx" not in name and name not in instructions()]
    if lacking or shutil.which("g++") is None:
        pytest.skip(f"this machine lacks {', '.join(lacking) or 'g++'}")
    flags = [flag for flag in kind.compiler_flags if "amx" not in flag]
    emulated = REPOSITORY / "tests/engine/kernels/emulated_tiles.h"
    library = tmp_path_factory.mktemp("amx") / "native_amx.so"
    subprocess.run(
        [
            *("g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", *flags, "-include", emulated),
            *(REPOSITORY / kind.source, "-o", library),
        ],
        check=True,
        stderr=subprocess.DEVNULL,  # false alarms of GCC 12 about its AVX512 headers
    )
    return library


@pytest.mark.parametrize("precision", [each for each in COMPUTED if each != "fp32"])
def test_amx_computes_what_numpy_computes(
    precision: str, emulated_amx: Path, bundle_of: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """INT8's sums are exact; in BF16 they are added in another order."""
    monkeypatch.setattr(native_cpu, "native_kernels", lambda _: emulated_amx)
    modern = MODERN | {"layers": 2}
    for fields, lengths in (
        ({}, [5, 300, 17, 64, 1, 33] + [40] * 20),
        ({"hidden_activation": "gelu_tanh"}, SHORT_PAIRS),
        (modern, [5, 130, 17, 64, 1, 33]),
        (modern | {"hidden_activation": "silu"}, SHORT_PAIRS),
        (modern | {"hidden_activation": "relu"}, SHORT_PAIRS),
    ):
        dims = dims_of(**{"hidden": 96, "heads": 3, "intermediate": 160, "layers": 3} | fields, precision=precision)
        bundle = bundle_of(dims, random_arrays(dims))
        batch = a_batch(lengths, types=dims.types)
        expected = logits_of(NativeModel.open(file_of(bundle)), pairs_of(batch))
        for threads in (1, 3):
            session = session_of(bundle, threads=threads)
            differences = np.abs(session.run(batch) - expected)
            assert differences.max() < 0.1
            assert np.median(differences) < (0.02 if precision == "bf16" else 1e-3)
            session.close()


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("precision", COMPUTED)
def test_threads_that_share_a_batch_change_no_bit(
    precision: str, threads: int, bundle_of: Callable[..., Bundle]
) -> None:
    dims = dims_of(precision=precision, layers=3)
    bundle = bundle_of(dims, random_arrays(dims))
    alone, together = session_of(bundle), session_of(bundle, threads=threads)
    # Some have fewer rows than threads, some more than go through the layers at once.
    for lengths in ([1], [2, 1, 3], [97], [13, 300, 12, 25], [300] * 5):
        batch = a_batch(lengths, seed=len(lengths))
        expected = alone.run(batch)
        for _ in range(5):
            np.testing.assert_array_equal(together.run(batch), expected)
    together.close()
    alone.close()


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="no /proc here, which tells what is in use"
)


def threads_of_this_process() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@needs_proc
def test_threads_that_share_a_batch_end_with_the_session(bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of()
    bundle = bundle_of(dims, random_arrays(dims))
    before = threads_of_this_process()
    for _ in range(3):
        sessions = [session_of(bundle, streams=2, threads=4) for _ in range(2)]
        assert threads_of_this_process() == before + 2 * 2 * 3
        closed, dropped = sessions
        closed.run(a_batch([40]))
        closed.close()
        assert threads_of_this_process() == before + 2 * 3
        del sessions, closed, dropped
        assert threads_of_this_process() == before, "dropped without closing"


def test_threads_that_share_a_batch_sleep_between_two(bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of()
    session = session_of(bundle_of(dims, random_arrays(dims)), threads=3)
    session.run(a_batch([40]))
    time.sleep(0.1)
    begin = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - begin < 0.1
    session.close()


@pytest.mark.skipif(bool(why_not_native()), reason=why_not_native() or "they run")
def test_a_request_of_fewer_pairs_than_streams_is_computed_by_all_processors(
    bundle_of: Callable[..., Bundle],
) -> None:
    dims = dims_of(precision="fp32")
    bundle = bundle_of(dims, random_arrays(dims))
    config = CpuConfig(backend="native", precision=Precision.FP32, threads=3, streams=3, batch_size=32, reason="")
    scorer = CpuScorer(bundle, config)
    pairs = a_batch([40, 9]).pairs()
    first = scorer.submit(pairs, batch_size=32).wait()
    scorer.wait_until_wide()
    np.testing.assert_array_equal(scorer.submit(pairs, batch_size=32).wait(), first)
    scorer.close()


def test_threads_do_not_disturb_one_another(bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of()
    session = session_of(bundle_of(dims, random_arrays(dims)), streams=2)
    batches = [a_batch([40 + seed, 90, 13], seed=seed) for seed in range(6)]
    expected = [session.run(batch) for batch in batches]
    wrong: list[int] = []

    def score(number: int) -> None:
        for _ in range(20):
            if not np.array_equal(session.run(batches[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=score, args=(number,)) for number in range(6)]  # more than there is memory for
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_proc
def test_scoring_takes_no_more_memory_whatever_the_shapes(bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of(intermediate=512)
    session = session_of(bundle_of(dims, random_arrays(dims)))
    rng = np.random.default_rng(0)

    def score(times: int) -> int:
        for _ in range(times):
            session.run(a_batch(rng.integers(1, POSITIONS, rng.integers(1, 12)).tolist()))
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * 4096

    score(50)
    before = score(50)
    assert score(200) - before < 2e6


def test_what_it_cannot_compute_is_refused_in_words(bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of(positions=64)
    session = session_of(bundle_of(dims, random_arrays(dims)))
    batch = a_batch([5, 9])
    before = session.run(batch)
    with pytest.raises(ShapeError, match=r"sequence 1\.\.64"):
        session.run(a_batch([65]))
    with pytest.raises(ShapeError, match="pad on the right"):
        session.run(dataclasses.replace(batch, attention_mask=batch.attention_mask[:, ::-1]))
    with pytest.raises(InputError, match="a pair without tokens"):
        session.run(dataclasses.replace(batch, attention_mask=batch.attention_mask * [[0], [1]]))
    beyond = (("input_ids", 50), ("input_ids", -1), ("input_ids", 2**32), ("token_type_ids", 2))
    for field, value in (*beyond, ("token_type_ids", -1), ("token_type_ids", 256)):
        wrong = getattr(batch, field).copy()
        wrong[1, 8] = value
        with pytest.raises(InputError, match="does not have"):
            session.run(dataclasses.replace(batch, **{field: wrong}))
    with pytest.raises(InputError, match="longer than the model's positions"):
        session.score(a_batch([5, 65]).pairs(), np.arange(2), 65)
    np.testing.assert_array_equal(session.run(batch), before)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(batch)


def test_types_that_fit_into_no_byte_are_refused_by_the_model_with_the_most_types(
    bundle_of: Callable[..., Bundle],
) -> None:
    dims = dims_of(types=MAX_DIMS["types"])
    session = session_of(bundle_of(dims, random_arrays(dims)))
    batch = a_batch([5, 9], types=dims.types)
    session.run(batch)
    for number in (-1, 256, 2**32):
        with pytest.raises(InputError, match="does not have"):
            session.run(dataclasses.replace(batch, token_type_ids=np.full_like(batch.token_type_ids, number)))


def altered(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"0",
        lambda content: content[:40],
        lambda content: b"",
        lambda content: b"0" * len(content),
        lambda content: b"\xff" * 7 + b"\0" + content[8:],
        lambda content: altered(content, lambda header: header["__metadata__"].update(layers="1000000000")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(layers="1024")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(heads="1024", head="4096")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(hidden="9" * 5000)),
        lambda content: altered(content, lambda header: header["__metadata__"].update(padding="50")),
        lambda content: altered(content, lambda header: header["__metadata__"].pop("padding")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(labels=1)),
        lambda content: altered(content, lambda header: header["__metadata__"].update(epsilon="Infinity")),
        lambda content: altered(content, lambda header: header.update(__metadata__=[])),
        lambda content: altered(content, lambda header: header.update(more={})),
        lambda content: (200_000).to_bytes(8, "little") + b"[" * 200_000 + content[-64:],
        lambda content: altered(content, lambda header: header["__metadata__"].update(format="another")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(vocab="51")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(positions="1000000")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(layers="0")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(head="31")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(epsilon="nan")),
        lambda content: altered(content, lambda header: header["__metadata__"].pop("hidden")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(precision="bf16")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(precision="int4")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(hidden_activation="mish")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(hidden_activation="none")),
        lambda content: altered(content, lambda header: header["__metadata__"].pop("hidden_activation")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(format="crossrt native 4")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(format="crossrt native 5")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(activation_balance="1")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(activation_balance="false")),
        lambda content: altered(content, lambda header: header["__metadata__"].pop("activation_balance")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(rotated="1")),
        lambda content: altered(content, lambda header: header["__metadata__"].pop("rotated")),
        lambda content: altered(content, lambda header: header["__metadata__"].update(format="crossrt native 6")),
        lambda content: altered(content, lambda header: header.pop("word")),
        lambda content: altered(content, lambda header: header["word"].update(data_offsets=[1, 2])),
    ],
)
def test_a_file_that_was_altered_never_reaches_the_kernels(
    bundle_of: Callable[..., Bundle], damage: Callable[[bytes], bytes]
) -> None:
    dims = dims_of()
    bundle = bundle_of(dims, random_arrays(dims))
    content = file_of(bundle).read_bytes()
    NativeModel.open(file_of(bundle))
    file_of(bundle).write_bytes(damage(content))
    with pytest.raises(BundleError, match=r"model\.int8\.native cannot be used.*export the bundle again"):
        session_of(bundle)


MODERN_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a window that is neither there nor not": lambda content: content[:-4] + b"\2\0\0\0",
    **{
        f"{field} {value}": lambda content, field=field, value=value: altered(
            content, lambda header: header["__metadata__"].update({field: value})
        )
        for field, value in (
            ("pooling", "max"),
            ("architecture", "bert"),
            ("architecture", "t5"),
            ("window", "-1"),
            ("window", "1e9"),
            ("types", "1"),
            ("padding", "1"),
            ("head_norm", "2"),
            ("head_norm", "false"),
            ("dense", "1"),
        )
    },
}


@pytest.mark.parametrize("damage", MODERN_DAMAGE)
def test_a_modernberts_file_that_was_altered_never_reaches_the_kernels(
    damage: str, bundle_of: Callable[..., Bundle]
) -> None:
    dims = dims_of(**MODERN | {"precision": "fp32"})
    bundle = bundle_of(dims, random_arrays(dims))
    content = file_of(bundle).read_bytes()
    NativeModel.open(file_of(bundle))
    file_of(bundle).write_bytes(MODERN_DAMAGE[damage](content))
    with pytest.raises(BundleError, match=r"model\.int8\.native cannot be used.*export the bundle again"):
        NativeModel.open(file_of(bundle))


def test_a_bert_does_not_read_the_mean_of_its_tokens() -> None:
    with pytest.raises(ValueError, match="pooling 'mean' is none"):
        dims_of(pooling="mean").check()


class FileWithHoles:
    """Writes to a file what is not larger than 1 GiB. In place of the rest the file has a hole, which takes no space."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def write(self, data: Any) -> None:
        size = memoryview(data).nbytes
        if size > 1 << 30:
            self.file.seek(size, os.SEEK_CUR)
        else:
            self.file.write(data)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_embeddings_of_more_than_two_to_the_31_numbers_are_found(
    precision: str, bundle_of: Callable[..., Bundle], tmp_path: Path
) -> None:
    dims = dims_of(precision=precision, hidden=160, vocab=4)
    arrays = random_arrays(dims)
    batch = a_batch([5, 9], vocab=4)
    expected = session_of(bundle_of(dims, arrays)).run(batch)

    large = dataclasses.replace(dims, vocab=MAX_DIMS["vocab"])
    assert large.vocab * large.width > 2**31
    bundle = bundle_of(dims, arrays)
    with file_of(bundle).open("r+b") as file:
        _, dtype, shape = next(iter(large.tensors()))
        word = np.memmap(tmp_path / "word", dtype=DTYPES[dtype], mode="w+", shape=shape)
        write(FileWithHoles(file), large, arrays | {"word": word})
        file.truncate()
        file.seek(0)
        begin = 8 + int.from_bytes(file.read(8), "little")
        file.seek(begin + word.nbytes - 4 * word[0].nbytes)  # the last four rows
        file.write(arrays["word"].astype(DTYPES[dtype]).tobytes())
    last = np.where(batch.attention_mask, batch.input_ids + large.vocab - 4, 0)
    np.testing.assert_array_equal(session_of(bundle).run(dataclasses.replace(batch, input_ids=last)), expected)


def test_weights_of_another_model_are_refused(bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of(dims_of(), random_arrays(dims_of()))
    for field in ("max_positions", "labels"):
        manifest = dataclasses.replace(bundle.manifest, **{field: POSITIONS + 1})
        with pytest.raises(BundleError, match="of another model than the manifest"):
            session_of(dataclasses.replace(bundle, manifest=manifest))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_activation": "mish"}, "the hidden activation 'mish' is none that the kernels compute"),
        ({"hidden_activation": "tanh"}, "the hidden activation 'tanh' is none that the kernels compute"),
        ({"hidden_activation": "relu", "precision": "fp16"}, "the hidden activation 'relu' is none"),
        ({"activation": "silu", "precision": "fp16"}, "activation 'silu'"),
        ({"activation": "mish"}, "activation 'mish'"),
    ],
)
def test_activations_that_are_not_computed_are_refused_in_words(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dims_of(**fields).check()
    dims_of(precision="fp16", hidden_activation="gelu_tanh").check()


@pytest.mark.parametrize(
    "fields", [{"precision": "fp32"}, {"precision": "fp16"}, MODERN], ids=["fp32", "fp16", "modernbert"]
)
def test_activations_are_balanced_in_a_bert_in_int8_alone(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="balanced in a BERT in INT8"):
        dims_of(**fields, activation_balance=True).check()


@pytest.mark.parametrize("fields", [{"precision": "fp32"}, {"precision": "fp16"}], ids=["fp32", "fp16"])
def test_rows_are_rotated_in_int8_alone(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rotated, in INT8 alone"):
        dims_of(**fields, rotated=True).check()


def as_before(content: bytes, version: int) -> bytes:
    """A file as it was before the format knew rotations, balanced activations, activations other than GELU, ModernBERT, or
    whether positions pass over padding.
    """

    def older(header: dict[str, Any]) -> None:
        absent = [
            "rotated",
            *(("activation_balance",) if version < 6 else ()),
            *(("hidden_activation",) if version < 5 else ()),
            *(("architecture", "pooling", "window", "head_norm", "embedding") if version < 4 else ()),
            *(("padding",) if version < 3 else ()),
        ]
        for field in absent:
            header["__metadata__"].pop(field)
        header["__metadata__"].update(format=f"crossrt native {version}")

    return altered(content, older)


def test_weights_of_an_older_crossrt_are_computed_with_but_not_where_padding_matters(
    bundle_of: Callable[..., Bundle],
) -> None:
    dims = dims_of(
        activation_balance=False, rotated=False, layers=6
    )  # so many that a vector of layers moves them as it grows
    bundle = bundle_of(dims, random_arrays(dims))
    batch = a_batch([5, 9])
    expected = session_of(bundle).run(batch)
    content = file_of(bundle).read_bytes()
    for version in (6, 5, 4, 3, 2):
        file_of(bundle).write_bytes(as_before(content, version))
        np.testing.assert_array_equal(session_of(bundle).run(batch), expected)
    manifest = dataclasses.replace(bundle.manifest, architecture={"head": "roberta"})
    with pytest.raises(BundleError, match="took no account of padding tokens in texts: export the bundle again"):
        session_of(dataclasses.replace(bundle, manifest=manifest))


@pytest.mark.parametrize("version", ["crossrt native 8", "crossrt native 10", "crossrt native 100000000"])
def test_weights_of_a_newer_crossrt_ask_for_it(version: str, bundle_of: Callable[..., Bundle]) -> None:
    """Whatever else such a format has."""
    dims = dims_of()
    bundle = bundle_of(dims, random_arrays(dims))
    newer = altered(
        file_of(bundle).read_bytes(), lambda header: header["__metadata__"].update(format=version, rotary_base="10000")
    )
    file_of(bundle).write_bytes(newer)
    words = f"has the format '{version}', and this crossrt reads up to 'crossrt native 7': install a newer crossrt"
    with pytest.raises(BundleError, match=rf"model\.int8\.native {words}"):
        session_of(bundle)


@pytest.mark.parametrize(
    "version", ["another", "crossrt native 0", "crossrt native 1", "crossrt native 08", "crossrt native 8.1", ""]
)
def test_weights_of_an_unknown_format_are_refused(version: str, bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of()
    bundle = bundle_of(dims, random_arrays(dims))
    content = file_of(bundle).read_bytes()
    file_of(bundle).write_bytes(altered(content, lambda header: header["__metadata__"].update(format=version)))
    words = r"cannot be used \(it is not of the format 'crossrt native 7'\); export the bundle again"
    with pytest.raises(BundleError, match=words):
        session_of(bundle)


def test_a_header_of_many_layers_is_refused_before_anything_is_made_for_them(bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of()
    bundle = bundle_of(dims, random_arrays(dims))
    content = altered(file_of(bundle).read_bytes(), lambda header: header["__metadata__"].update(layers="1024"))
    file_of(bundle).write_bytes(content)
    tracemalloc.start()
    with pytest.raises(BundleError, match="is not the one of its sizes"):
        NativeModel.open(file_of(bundle))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1e6


def test_arrays_of_another_version_are_refused_before_one_is_read_that_is_not_there(
    kind: ProcessorKind, monkeypatch: pytest.MonkeyPatch, bundle_of: Callable[..., Bundle]
) -> None:
    """The library counts the arrays itself: a struct of the same size can mean other arrays in another version."""
    dims = dims_of(precision="fp32")
    bundle = bundle_of(dims, random_arrays(dims))
    model = NativeModel.open(file_of(bundle))
    for arrays in (model.arrays[:-1], (*model.arrays, model.arrays[0]), ()):
        other = dataclasses.replace(model, arrays=arrays)
        monkeypatch.setattr(NativeModel, "open", lambda _, other=other: other)
        with pytest.raises(
            BackendError, match=r"native_\w+.* was compiled for another version .*; install crossrt again"
        ):
            session_of(bundle)


def test_the_struct_that_python_passes_has_the_fields_of_the_one_in_cpp() -> None:
    source = (REPOSITORY / "engine/kernels/native/model_dims.h").read_text(encoding="utf-8")
    (body,) = re.findall(r"struct ModelDims {(.*?)\n\n", source, re.DOTALL)
    declarations = re.findall(r"^ *(int|float) ([\w, ]+);", body, re.MULTILINE)
    fields = [(name, kind) for kind, names in declarations for name in names.split(", ")]
    kinds = {"int": ctypes.c_int32, "float": ctypes.c_float}
    assert [(name, kinds[kind]) for name, kind in fields] == list(EncoderDims._fields_)


needs_int8 = pytest.mark.skipif("int8" not in COMPUTED, reason=why_not_native(Precision.INT8) or "they run")


@needs_int8
def test_weights_of_another_precision_are_refused(bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of(dims_of(), random_arrays(dims_of()))
    models = {"fp32": bundle.manifest.models["int8"]}
    with pytest.raises(BundleError, match="of another model than the manifest"):
        session_of(dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, models=models)))


@needs_int8
def test_kept_channels_beyond_the_layer_are_refused(bundle_of: Callable[..., Bundle]) -> None:
    dims = dims_of()
    arrays = random_arrays(dims)
    arrays["kept"][1, 2] = dims.intermediate
    with pytest.raises(BundleError, match="kept"):
        session_of(bundle_of(dims, arrays))


def test_the_file_is_what_safetensors_reads(bundle_of: Callable[..., Bundle]) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    dims = dims_of()
    bundle = bundle_of(dims, random_arrays(dims))
    read = safetensors.load_file(file_of(bundle))
    for (name, dtype, _), array in zip(dims.tensors(), NativeModel.open(file_of(bundle)).arrays, strict=True):
        np.testing.assert_array_equal(read[name].view(DTYPES[dtype]), array)


def test_an_array_of_another_shape_is_not_written() -> None:
    dims = dims_of()
    arrays = random_arrays(dims) | {"type": np.zeros((3, 64))}
    with pytest.raises(ValueError, match=r"type is \[3, 64\]"):
        write(io.BytesIO(), dims, arrays)


def test_panels_are_where_the_kernels_can_load_them(bundle_of: Callable[..., Bundle]) -> None:
    for dims in (dims_of(hidden=40, labels=3), dims_of(types=0, layers=3, dense=1), dims_of(precision="fp32")):
        model = NativeModel.open(file_of(bundle_of(dims, random_arrays(dims))))
        panels = [array for array in model.arrays if array.ndim >= 4]
        assert len(panels) == 4 * dims.layers + 2
        assert not any(array.ctypes.data % 64 for array in panels)


@pytest.mark.processor
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_session_computes_by_the_processors_own_library_or_says_what_the_processor_lacks(
    precision: str, bundle_of: Callable[..., Bundle]
) -> None:
    dims = dims_of(precision=precision)
    bundle = bundle_of(dims, random_arrays(dims))
    if precision in COMPUTED:
        session = NativeSession(bundle, precision=Precision(precision), streams=1)
        kind = native_kind(Precision(precision))
        assert kind is not None
        assert session._library._name == str(native_library(kind.library))
        session.close()
    else:
        why = re.escape(why_not_native(Precision(precision)))
        with pytest.raises(BackendError, match=f"cannot run here in {precision}: {why}; use another backend"):
            NativeSession(bundle, precision=Precision(precision), streams=1)


def test_without_compiled_kernels_no_session_opens(
    monkeypatch: pytest.MonkeyPatch, bundle_of: Callable[..., Bundle]
) -> None:
    dims = dims_of(precision="fp32")
    bundle = bundle_of(dims, random_arrays(dims))
    monkeypatch.setattr("crossrt.engine.native_library.FOLDER", Path("nowhere"))
    with pytest.raises(BackendError, match="no compiled kernels: install crossrt again"):
        NativeSession(bundle, precision=Precision.FP32, streams=1)
