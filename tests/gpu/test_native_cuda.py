"""The native kernels compute on a real GPU what NumPy computes: `pytest tests/gpu -m gpu`. No bundle is needed, but scipy."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossrt.engine.bundle.native_weights import write
from crossrt.engine.cuda.bindings import open_cuda
from crossrt.engine.errors import BackendError
from crossrt.engine.hardware.gpus import gpus
from crossrt.engine.runtime.gpu_scorer import GpuScorer

pytestmark = pytest.mark.gpu

LENGTHS = [1, 16, 17, 64, 65, 145, 300, 100] * 12
"""Pairs of 8,496 tokens, which are one batch: the algorithms of its products are timed."""


@pytest.mark.parametrize(
    ("fields", "has_window", "biased"),
    [
        ({}, [], True),
        ({"hidden": 40, "embedding": 96, "head_norm": True}, [], True),
        ({}, [0, 1], True),
        ({"layers": 3}, [0, 1, 1], False),
        ({"pooling": "mean", "head": 128, "window": 64}, [1, 0], True),
    ],
    ids=["bert", "projected, norm in the head", "modernbert", "modernbert, no bias", "modernbert, mean"],
)
def test_the_kernels_compute_what_numpy_computes(
    tmp_path: Path, fields: dict[str, Any], has_window: list[int], biased: bool
) -> None:
    if not gpus():
        pytest.skip("no GPU: there is no NVIDIA driver here")
    pytest.importorskip("scipy")
    pytest.importorskip("cuda.bindings")
    from crossrt.engine.backends.native_cuda import NativeGpuExecutor
    from tests.engine.backends import test_native_cuda as emulated

    known = emulated.SMALL if has_window else {"precision": "fp32"}
    dims = emulated.dims_of(**known | fields)
    arrays = emulated.modern_arrays(dims, has_window, biased=biased) if has_window else emulated.random_arrays(dims)
    with (tmp_path / "model.fp16.native").open("wb") as file:
        write(file, *emulated.for_gpus(dims, arrays))
    manifest = SimpleNamespace(max_positions=dims.positions, labels=dims.labels, architecture={})
    bundle: Any = SimpleNamespace(native_file=lambda precision: tmp_path / "model.fp16.native", manifest=manifest)
    cuda = open_cuda(0)
    try:
        with cuda.current():
            executor = NativeGpuExecutor(bundle, cuda)
    except BackendError as error:
        cuda.close()
        pytest.skip(str(error))
    scorer = GpuScorer(bundle, emulated.CONFIG, [executor])
    pairs = emulated.pairs_of(LENGTHS, dims)
    expected = emulated.expected_of(dims, pairs, arrays)
    for _ in range(3):  # launched, captured, and as a graph
        found = scorer.submit(pairs, batch_size=1).wait()
        assert np.abs(found - expected).max() < emulated.ALLOWED
    scorer.close()
