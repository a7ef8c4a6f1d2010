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

from crossrt.engine.cuda.cublas import TUNED_ROWS, Cublas, ProductKind
from crossrt.engine.errors import BackendError
from tests.engine.cuda.simulated_gpu import SimulatedGpu


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
def device() -> Iterator[SimulatedGpu]:
    device = SimulatedGpu()
    with device.current():
        yield device


def computed(products: Cublas, stream: int, rows: int, **options: Any) -> tuple[Any, Any]:
    """Return the result of a product, and the expected one."""
    chance = np.random.default_rng(0)
    x, weight = (chance.normal(0, 1, shape).astype(np.float16) for shape in ((rows, 8), (5, 8)))
    kind = ProductKind(rows, 8, 5, **options)
    dtype = np.float32 if kind.single else np.float16
    bias, y = chance.normal(0, 1, 5).astype(dtype), np.full((rows, 5), np.nan, dtype)
    if kind.adds:
        y = chance.normal(0, 1, (rows, 5)).astype(dtype)
    expected = kind.scale * x.astype(np.float64) @ weight.T.astype(np.float64) + (bias if kind.biased else 0)
    if kind.adds:
        expected += y
    spare = np.empty_like(y)
    product = products.product(kind)
    pointers = (x, weight, bias, y, spare)
    addresses = [each.ctypes.data for each in pointers]
    product.enqueue(stream, *addresses[:4], 0, addresses[4])
    product.close()
    product.close()
    if kind.gelu:
        expected = 0.5 * expected * (1 + np.tanh(np.sqrt(2 / np.pi) * (expected + 0.044715 * expected**3)))
    return y, expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gelu": True},
        {"single": True},
        {"single": True, "gelu": True},
        {"single": True, "adds": True},
        {"single": True, "adds": True, "biased": False},
        {"single": True, "adds": True, "scale": 16},
        {"biased": False},
    ],
    ids=lambda options: " and ".join(f"{name} {value}" for name, value in options.items()) or "plain",
)
def test_a_product_is_rows_by_weights_and_bias(
    library: ctypes.CDLL, device: SimulatedGpu, options: dict[str, Any]
) -> None:
    products, stream = Cublas(device), device.create_stream()
    found, expected = computed(products, stream, 7, **options)
    np.testing.assert_allclose(found, expected, atol=1e-4 if "single" in options else 1e-2)
    assert ctypes.c_void_p.in_dll(library, "last_stream").value == stream
    products.close()
    products.close()
    assert ctypes.c_int.in_dll(library, "created").value == 0
    device.destroy_stream(stream)
    assert device.left_behind == []


def test_large_products_take_the_quickest_of_several_algorithms(
    library: ctypes.CDLL, device: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("biased", [False, True])
def test_timing_a_product_that_adds_adds_nothing(library: ctypes.CDLL, device: SimulatedGpu, biased: bool) -> None:
    products, stream = Cublas(device), device.create_stream()
    found, expected = computed(products, stream, TUNED_ROWS, single=True, adds=True, biased=biased)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    products.close()
    device.destroy_stream(stream)


def test_a_candidate_that_is_refused_in_the_end_is_passed_over(
    library: ctypes.CDLL, device: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
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


def test_what_cublas_refuses_is_an_error_in_words(library: ctypes.CDLL, device: SimulatedGpu) -> None:
    products = Cublas(device)
    with pytest.raises(BackendError, match="cublasLtMatmulAlgoGetHeuristic failed: CUBLAS_STATUS_NOT_SUPPORTED"):
        products.product(ProductKind(4, 13, 5))
    products.close()
    assert ctypes.c_int.in_dll(library, "created").value == 0


def test_without_the_library_the_error_says_what_to_install(
    device: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise RuntimeError("libcublasLt.so.13 is nowhere")

    monkeypatch.setattr(cuda.pathfinder, "load_nvidia_dynamic_lib", missing)
    with pytest.raises(BackendError, match=r"libcublasLt.so.13 is nowhere.*crossrt\[cuda\]"):
        Cublas(device)
