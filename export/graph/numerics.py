"""`Numerics`: the data type of each tensor of an exported graph."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from ...calibration.quantization import Quantization

FLOATS: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
FP16_MAX = float(np.finfo(np.float16).max)  # 65,504
FP16_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)  # 6.1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """The data types of a graph's tensors, by the tensors' names.

    All tensors are FP32 unless `fp16`. With `fp16` they are FP16, with these exceptions: the head; the tensors in `fp32_tensors`;
    every tensor that is computed directly from one of those, because a value that FP16 cannot represent must not be cast to it;
    and every tensor that is computed from a weight beyond FP16's range.

    The points in `quantized` (`export/precision/quantization_points.py`) are in INT8. Attention heads are padded with zeros to a
    multiple of `head_multiple`, which changes no score; TensorRT fuses attention only for multiples of 8. With `fused`,
    attention, and what follows a MatMul, are ONNX Runtime's own operators if all tensors inside have one type. TensorRT does not
    know these operators.
    """

    fp16: bool = False
    fp32_tensors: frozenset[str] = frozenset()
    quantized: Mapping[str, Quantization] = field(default_factory=dict)
    head_multiple: int = 1
    fused: bool = False

    def type_of(self, output: str, inputs: Iterable[str] = (), weights: Sequence[npt.NDArray[Any]] = ()) -> int:
        """Return the ONNX type of the node that computes `output` from the tensors `inputs` and the constants `weights`."""
        if not self.fp16 or output == "logits" or output.startswith("head."):
            return TensorProto.FLOAT
        wide = any(name in self.fp32_tensors for name in (output, *inputs))
        wide = wide or any(np.abs(weight).max(initial=0) > FP16_MAX for weight in weights)
        return TensorProto.FLOAT if wide else TensorProto.FLOAT16


FP32 = Numerics()
FP16 = Numerics(fp16=True, head_multiple=8)
