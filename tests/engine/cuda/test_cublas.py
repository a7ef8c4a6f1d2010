"""Products through the API of cuBLASLt, implemented by a small C library that computes in host memory."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cuda.bindings")

import cuda.pathfinder

from crossrt.engine.cuda.cublas import TUNED_ROWS, Cublas
from crossrt.engine.errors import BackendError
from tests.engine.cuda.memory_device import MemoryDevice


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here, which the library needs")
    file = tmp_path / "libcublasLt.so"
    source = Path(__file__).parent / "libcublaslt.c"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", source, "-o", file, "-lm"], check=True)
    monkeypatch.setattr(cuda.pathfinder, "load_nvidia_dynamic_lib", lambda name: SimpleNamespace(abs_path=str(file)))
    return ctypes.CDLL(str(file))


@pytest.fixture
def device() -> Iterator[MemoryDevice]:
    device = MemoryDevice()
    with device.current():
        yield device


def computed(products: Cublas, stream: int, rows: int, *, single: bool = False, gelu: bool = False) -> tuple[Any, Any]:
    """Return the result of a product, and the expected one."""
    chance = np.random.default_rng(0)
    x, weight = (chance.normal(0, 1, shape).astype(np.float16) for shape in ((rows, 8), (5, 8)))
    kind = np.float32 if single else np.float16
    bias, y = chance.normal(0, 1, 5).astype(kind), np.full((rows, 5), np.nan, kind)
    product = products.product(rows, 8, 5, single=single, gelu=gelu)
    product.enqueue(stream, x.ctypes.data, weight.ctypes.data, bias.ctypes.data, y.ctypes.data, 0)
    product.close()
    product.close()
    expected = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    if gelu:
        expected = 0.5 * expected * (1 + np.tanh(np.sqrt(2 / np.pi) * (expected + 0.044715 * expected**3)))
    return y, expected


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("gelu", [False, True])
def test_a_product_is_rows_by_weights_and_bias(
    library: ctypes.CDLL, device: MemoryDevice, single: bool, gelu: bool
) -> None:
    products, stream = Cublas(device), device.create_stream()
    found, expected = computed(products, stream, 7, single=single, gelu=gelu)
    np.testing.assert_allclose(found, expected, atol=1e-5 if single else 1e-2)
    assert ctypes.c_void_p.in_dll(library, "last_stream").value == stream
    products.close()
    products.close()
    assert ctypes.c_int.in_dll(library, "created").value == 0
    device.destroy_stream(stream)
    assert device.left_behind == []


def test_large_products_take_the_quickest_of_several_algorithms(
    library: ctypes.CDLL, device: MemoryDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    products, stream = Cublas(device), device.create_stream()
    last = ctypes.c_int.in_dll(library, "last_algorithm")
    computed(products, stream, TUNED_ROWS - 1)
    assert last.value == 100, "small ones take the first"
    times = iter([2.0, 1.0])  # of the first and the third: the second is not supported
    monkeypatch.setattr(device, "elapsed_ms", lambda begin, end: next(times))
    found, expected = computed(products, stream, TUNED_ROWS)
    assert last.value == 102
    np.testing.assert_allclose(found, expected, atol=1e-2)
    products.close()
    device.destroy_stream(stream)
    assert device.left_behind == [], "its events too"


def test_a_candidate_that_is_refused_in_the_end_is_passed_over(
    library: ctypes.CDLL, device: MemoryDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    products, stream = Cublas(device), device.create_stream()
    refused = ctypes.c_int.in_dll(library, "refused_algorithm")
    refused.value = 100
    found, expected = computed(products, stream, TUNED_ROWS)
    assert ctypes.c_int.in_dll(library, "last_algorithm").value == 102
    np.testing.assert_allclose(found, expected, atol=1e-2)
    with pytest.raises(BackendError, match="cublasLtMatmul failed: CUBLAS_STATUS_NOT_SUPPORTED"):
        computed(products, stream, 7)
    device.destroy_stream(stream)


def test_what_cublas_refuses_is_an_error_in_words(library: ctypes.CDLL, device: MemoryDevice) -> None:
    products = Cublas(device)
    with pytest.raises(BackendError, match="cublasLtMatmulAlgoGetHeuristic failed: CUBLAS_STATUS_NOT_SUPPORTED"):
        products.product(4, 13, 5)
    products.close()
    assert ctypes.c_int.in_dll(library, "created").value == 0


def test_without_the_library_the_error_says_what_to_install(
    device: MemoryDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise RuntimeError("libcublasLt.so.13 is nowhere")

    monkeypatch.setattr(cuda.pathfinder, "load_nvidia_dynamic_lib", missing)
    with pytest.raises(BackendError, match=r"libcublasLt.so.13 is nowhere.*crossrt\[cuda\]"):
        Cublas(device)
