"""`counted_multiply_adds`: which linear layers a runtime really computes in 8 bits.

QuantizeLinear and DequantizeLinear in a file do not guarantee 8-bit products. If the operators around a product do not match ONNX
Runtime's patterns, it silently computes that product in floating point. So the multiply-adds are counted from its profile.
"""

import json
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx

from ...engine.batching.batch import Batch
from ..graph.session import feeds_of, session_of

FLOATING = frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm"})
EIGHT_BIT = frozenset({"MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiplyAdds:
    """Multiply-adds of the linear layers in one run: `total`, in 8 bits, and of each floating-point operator by its name."""

    total: int
    eight_bit: int
    floating: dict[str, int]

    @property
    def share(self) -> float:
        """Share of the multiply-adds that ran in 8 bits, 0 to 1."""
        return self.eight_bit / self.total if self.total else 0.0


def counted_multiply_adds(model: onnx.ModelProto, batch: Batch) -> MultiplyAdds:
    """Run a batch in ONNX Runtime and count the multiply-adds of its linear layers by how they ran.

    Linear layers are the products with a weight matrix. The products of two activations, in attention, are not counted.
    """
    with tempfile.TemporaryDirectory() as directory:
        session = session_of(model, profile=Path(directory) / "profile")
        session.run(["logits"], feeds_of(session, batch))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    floating: dict[str, int] = {}
    eight_bit = 0
    for event in events:
        operator = event.get("args", {}).get("op_name")
        if event.get("cat") != "Node" or operator not in FLOATING | EIGHT_BIT:
            continue
        count = _multiply_adds_of(event["args"])
        if operator in EIGHT_BIT:
            eight_bit += count
        elif count:
            floating[event["name"].removesuffix("_kernel_time")] = count
    return MultiplyAdds(total=eight_bit + sum(floating.values()), eight_bit=eight_bit, floating=floating)


def _multiply_adds_of(arguments: dict[str, Any]) -> int:
    # The profile does not list packed weights among the inputs. A second input of more than two dimensions is an activation, so
    # the product belongs to attention.
    shapes = [shape for entry in arguments["input_type_shape"] for shape in entry.values()]
    outputs = [shape for entry in arguments["output_type_shape"] for shape in entry.values()]
    if any(len(shape) > 2 for shape in shapes[1:]):
        return 0
    count: int = prod(outputs[0]) * int(shapes[0][-1])
    return count
