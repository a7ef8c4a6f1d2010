"""Matrix products on a GPU by cuBLASLt: FP16 with sums in FP32. Bias, GELU and an addition to the output are fused into them."""

import ctypes
import math
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ..errors import BackendError
from .cuda import Cuda, Event

WORKSPACE = 32 << 20
"""Bytes of device memory that a product may use while it computes. NVIDIA recommends 32 MiB for Hopper."""

TUNED_ROWS = 4_096
"""The algorithms of a product are timed from this number of rows on. The first algorithm that cuBLAS suggests can be 10 % slower
than the best one."""
CANDIDATES = 8
"""Number of algorithms that are timed."""
REPEATS = 3
"""Number of products in one timing."""

# Constants of cublasLt.h, library_types.h and cublas_api.h.
_HALF, _SINGLE, _COMPUTE_SINGLE = 2, 0, 68
_TRANSPOSE_LEFT, _EPILOGUE, _BIAS = 3, 7, 8
_PLAIN, _WITH_BIAS, _WITH_GELU_AND_BIAS = 1, 4, 36
_MAX_WORKSPACE = 1
_STATUS = {
    1: "NOT_INITIALIZED",
    3: "ALLOC_FAILED",
    7: "INVALID_VALUE",
    8: "ARCH_MISMATCH",
    11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED",
    14: "INTERNAL_ERROR",
    15: "NOT_SUPPORTED",
}


class _HeuristicResult(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


def load_cublas() -> ctypes.CDLL:
    """Load cuBLASLt from the CUDA toolkit or a Python package. Raises BackendError, saying what to install, without either."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path)
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f'cuBLAS was not found ({error}): pip install "crossrt[cuda]"') from error


class Cublas:
    """cuBLASLt on one device. The device must be current in every call."""

    def __init__(self, cuda: Cuda) -> None:
        """Load the library. Raises BackendError if it is not installed."""
        self.cuda = cuda
        self._library = load_cublas()
        handle = ctypes.c_void_p()
        self._call("cublasLtCreate", ctypes.byref(handle))
        self._handle = handle

    def product(self, kind: "ProductKind") -> "Product":
        """Prepare a product."""
        return Product(self, kind)

    def close(self) -> None:
        """Free the handle. Its products must be closed first. May be called again."""
        if self._handle:
            self._call("cublasLtDestroy", self._handle)
            self._handle = ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise BackendError(f"{name} failed: CUBLAS_STATUS_{_STATUS.get(status, status)}")


@dataclass(frozen=True, slots=True)
class ProductKind:
    """y [rows, outputs] = scale x [rows, inputs] weight^T + bias, with weight [outputs, inputs] and bias [outputs].

    All are FP16. With `single`, y and the bias are FP32. `gelu` applies GELU, in its tanh approximation, to y. With `adds`, which
    needs `single`, the result is added to y. Without `biased` there is no bias.
    """

    rows: int
    inputs: int
    outputs: int
    gelu: bool = False
    single: bool = False
    adds: bool = False
    biased: bool = True
    scale: int = 1


class Product:
    """A matrix product of one shape, prepared by `Cublas.product`.

    cuBLAS is column-major. It computes y^T = weight x^T, whose columns are the rows of x and y.
    """

    def __init__(self, cublas: Cublas, kind: ProductKind) -> None:
        self._cublas = cublas
        self._kind = kind
        self._created: list[tuple[str, ctypes.c_void_p]] = []
        """Descriptors to free, with their kind."""
        self._alpha, self._beta = ctypes.c_float(kind.scale), ctypes.c_float(kind.adds)
        rows, inputs, outputs = kind.rows, kind.inputs, kind.outputs
        try:
            self._operation = self._create("MatmulDesc", ctypes.c_int(_COMPUTE_SINGLE), ctypes.c_int(_SINGLE))
            self._set(_TRANSPOSE_LEFT, ctypes.c_int32(1))
            epilogue = _WITH_GELU_AND_BIAS if kind.gelu else _WITH_BIAS if kind.biased else _PLAIN
            self._set(_EPILOGUE, ctypes.c_uint32(epilogue))
            if kind.biased:
                # A placeholder for the bias, whose alignment influences cuBLAS's choice; `enqueue` sets the real pointer.
                self._set(_BIAS, ctypes.c_void_p(256))
            result = _SINGLE if kind.single else _HALF
            shapes = ((_HALF, inputs, outputs), (_HALF, inputs, rows), (result, outputs, rows))
            self._layouts = [
                self._create(
                    "MatrixLayout",
                    ctypes.c_int(dtype),
                    ctypes.c_uint64(high),
                    ctypes.c_uint64(wide),
                    ctypes.c_int64(high),
                )
                for dtype, high, wide in shapes
            ]
            self._candidates = self._heuristic(CANDIDATES if rows >= TUNED_ROWS else 1)
            if not self._candidates:
                raise BackendError(f"cuBLAS has no product of {rows} x {inputs} by {inputs} x {outputs} on this GPU")
        except BackendError:
            self.close()
            raise

    def _heuristic(self, most: int) -> list[Any]:
        """Return at most `most` algorithms that cuBLAS suggests, in the order of their estimated speed, the fastest first."""
        preference, workspace = self._create("MatmulPreference"), ctypes.c_size_t(WORKSPACE)
        self._cublas._call(
            "cublasLtMatmulPreferenceSetAttribute",
            *(preference, _MAX_WORKSPACE, ctypes.byref(workspace), ctypes.sizeof(workspace)),
        )
        results, count = (_HeuristicResult * most)(), ctypes.c_int()
        weight, x, y = self._layouts
        self._cublas._call(
            "cublasLtMatmulAlgoGetHeuristic",
            *(self._cublas._handle, self._operation, weight, x, y, y, preference, most, results, ctypes.byref(count)),
        )
        return [each.algorithm for each in results[: count.value] if not each.state]

    def enqueue(self, stream: int, x: int, weight: int, bias: int, y: int, workspace: int, spare: int = 0) -> None:
        """Enqueue the product on a stream. The other arguments are device pointers, aligned to 256 bytes.

        The first call of a product of `TUNED_ROWS` or more rows times the candidate algorithms and keeps the fastest. That call
        waits for the stream, and cannot be captured in a graph. If the product adds to y, the timed results go to `spare`, which
        must be as large as y.
        """
        if self._kind.biased:
            self._set(_BIAS, ctypes.c_void_p(bias))
        if len(self._candidates) > 1:
            timed = spare if self._kind.adds else y
            self._candidates = [self._fastest(stream, x, weight, y, timed, workspace)]
        self._put(self._candidates[0], stream, x, weight, y, y, workspace)

    def _fastest(self, stream: int, *pointers: int) -> Any:
        cuda = self._cublas.cuda
        with closing(Event(cuda)) as begin, closing(Event(cuda)) as end:

            def ms(algorithm: Any) -> float:
                try:
                    self._put(algorithm, stream, *pointers)
                except BackendError:  # cuBLAS suggests algorithms that it then refuses to run
                    return math.inf
                cuda.record(begin.handle, stream)
                for _ in range(REPEATS):
                    self._put(algorithm, stream, *pointers)
                cuda.record(end.handle, stream)
                cuda.synchronize(stream)
                return cuda.elapsed_ms(begin.handle, end.handle)

            return min(self._candidates, key=ms)

    def _put(self, algorithm: Any, stream: int, x: int, weight: int, y: int, to: int, workspace: int) -> None:
        """Enqueue the product with an algorithm. Its result, or with `adds` its sum with y, is written to `to`."""
        weights, xs, ys = self._layouts
        self._cublas._call(
            "cublasLtMatmul",
            *(self._cublas._handle, self._operation, ctypes.byref(self._alpha)),
            *(ctypes.c_void_p(weight), weights, ctypes.c_void_p(x), xs, ctypes.byref(self._beta)),
            *(ctypes.c_void_p(y), ys, ctypes.c_void_p(to), ys, ctypes.byref(algorithm)),
            *(ctypes.c_void_p(workspace), ctypes.c_size_t(WORKSPACE), ctypes.c_void_p(stream)),
        )

    def close(self) -> None:
        """Free its descriptors. May be called again."""
        while self._created:
            kind, descriptor = self._created.pop()
            self._cublas._call(f"cublasLt{kind}Destroy", descriptor)

    def _create(self, kind: str, *arguments: Any) -> ctypes.c_void_p:
        descriptor = ctypes.c_void_p()
        self._cublas._call(f"cublasLt{kind}Create", ctypes.byref(descriptor), *arguments)
        self._created.append((kind, descriptor))
        return descriptor

    def _set(self, attribute: int, value: Any) -> None:
        self._cublas._call(
            "cublasLtMatmulDescSetAttribute", self._operation, attribute, ctypes.byref(value), ctypes.sizeof(value)
        )
