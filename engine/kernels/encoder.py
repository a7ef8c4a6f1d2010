"""`open_encoder` gives a model's arrays to a library of native kernels. `check_arrays` tests that it expects this version's."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.native_weights import ACTIVATIONS, ARCHITECTURES, DTYPES, PANEL, POOLINGS, ModelDims
from ..errors import BackendError
from ..precision import Precision

BITS = {"int8": 8, "bf16": 16, "fp32": 32}
"""`ModelDims.bits` in C++, by precision."""
OK, INVALID_INPUT, OUT_OF_MEMORY, WRONG_ARRAYS = range(4)
"""The status codes of `crossrt_open` and `crossrt_score` (`Status` in native/c_api.h)."""


class EncoderDims(ctypes.Structure):
    """`ModelDims` of native/model_dims.h, field by field."""

    _fields_ = (
        ("hidden", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("head", ctypes.c_int32),
        ("intermediate", ctypes.c_int32),
        ("layers", ctypes.c_int32),
        ("types", ctypes.c_int32),
        ("vocab", ctypes.c_int32),
        ("positions", ctypes.c_int32),
        ("labels", ctypes.c_int32),
        ("dense", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("architecture", ctypes.c_int32),
        ("pooling", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("head_norm", ctypes.c_int32),
        ("embedding", ctypes.c_int32),
        ("hidden_activation", ctypes.c_int32),
        ("activation_balance", ctypes.c_int32),
        ("rotated", ctypes.c_int32),
        ("epsilon", ctypes.c_float),
    )

    @classmethod
    def of(cls, dims: ModelDims) -> "EncoderDims":
        """Return the dimensions as the C++ struct."""
        encoded = {
            "activation": ACTIVATIONS.index(dims.activation),
            "bits": BITS[dims.precision],
            "padding": -1 if dims.padding is None else dims.padding,
            "architecture": ARCHITECTURES.index(dims.architecture),
            "pooling": POOLINGS.index(dims.pooling),
            "embedding": dims.embedding or 0,
            "hidden_activation": ACTIVATIONS.index(dims.hidden_activation),
        }
        plain = {name: getattr(dims, name) for name, _ in cls._fields_ if name not in encoded}
        return cls(**plain, **encoded)


def open_encoder(library: ctypes.CDLL, file: Path, dims: ModelDims, arrays: Sequence[npt.NDArray[Any]]) -> int | None:
    """Return the address of the library's encoder for a model, or None if there is too little memory.

    The encoder reads `arrays` until it is closed, so the caller must keep them. Raises BackendError, naming the library's
    `file`, if the library expects more or fewer arrays for such a model.
    """
    addresses = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    encoder = ctypes.c_void_p()
    status = library.crossrt_open(ctypes.byref(EncoderDims.of(dims)), addresses, len(addresses), ctypes.byref(encoder))
    if status == WRONG_ARRAYS:
        raise BackendError(
            f"{file} was compiled for another version of crossrt (it expects other weights); install crossrt again"
        )
    return encoder.value


def check_arrays(library: ctypes.CDLL, file: Path, precision: Precision) -> None:
    """Raise BackendError if a library expects more or fewer arrays for a model in `precision` than this version of crossrt has.

    The check opens the smallest BERT and the smallest ModernBERT with all optional parts. Their weights are zeros.
    """
    bert = {"types": 1, "embedding": PANEL, "activation_balance": precision is Precision.INT8}
    models: dict[str, dict[str, Any]] = {"bert": bert, "modernbert": {"types": 0}}
    for architecture, optional in models.items():
        dims = ModelDims(
            precision=precision.value,
            hidden=PANEL,
            heads=1,
            head=PANEL,
            intermediate=PANEL,
            layers=2,
            vocab=1,
            positions=1,
            labels=1,
            dense=2,
            activation="gelu",
            epsilon=1e-5,
            architecture=architecture,
            head_norm=True,
            **optional,
        )
        arrays = [np.zeros(shape, DTYPES[dtype]) for _, dtype, shape in dims.tensors()]
        library.crossrt_close(open_encoder(library, file, dims, arrays))
