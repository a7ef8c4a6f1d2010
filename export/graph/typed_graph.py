"""`TypedGraph`: the nodes and initializers of an ONNX graph, which get their types when they are added."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from .numerics import FLOATS, Numerics


class TypedGraph:
    """An ONNX graph under construction. Every tensor is named after the part of the model that computes it, every node after its
    output.

    A node's floating-point inputs get the type that `numerics` gives its output, by a Cast if necessary. Weights are stored in
    the type in which they are used.
    """

    def __init__(self, numerics: Numerics) -> None:
        self.numerics = numerics
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, npt.NDArray[Any]] = {}
        self._types: dict[str, int] = {}
        self._origins: dict[str, str] = {}
        self._initializers: dict[str, None] = {}  # the constants that nodes use, in the order of their first use

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        *,
        kind: int | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node that computes `output` in the floating-point type `kind`, by default the one that `numerics` gives."""
        names = list(inputs)
        floats = [name for name in names if self._types.get(name) in FLOATS]
        if operator == "Cast":
            self._types[output] = attributes["to"]
        elif floats:
            # Q/DQ does not change a tensor's range. What does not fit into FP16 before it does not fit after it either.
            computed = [self._origins.get(name, name) for name in floats if name not in self._constants]
            weights = [self._constants[name] for name in floats if name in self._constants]
            kind = kind or self.numerics.type_of(output, computed, weights)
            names = [self._in_type(name, kind) for name in names]
            self._types[output] = kind
        self._initializers |= dict.fromkeys(name for name in names if name in self._constants)
        self._node(operator, names, output, **attributes)
        return output

    def _node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))

    def _in_type(self, name: str, kind: int) -> str:
        """Return the name of the tensor in the floating-point type `kind`: itself, or a converted copy."""
        if self._types.get(name) not in FLOATS or self._types[name] == kind:
            return name
        copy = f"{name}.{FLOATS[kind]}"
        if copy not in self._types:
            self._types[copy] = kind
            if name in self._constants:
                self._constants[copy] = self._constants[name].astype(FLOATS[kind])
            else:
                self._node("Cast", [name], copy, to=kind)
        return copy

    def constant(self, name: str, values: npt.ArrayLike) -> str:
        """Register a constant. It becomes an initializer when a node uses it, in the node's type.

        The values are not copied. A scalar gets one dimension.
        """
        if name not in self._constants:
            array = np.atleast_1d(values)
            self._constants[name] = array
            self._types[name] = helper.np_dtype_to_tensor_dtype(array.dtype)
        return name

    def integers(self, name: str, values: npt.ArrayLike) -> str:
        """Register an int64 constant."""
        return self.constant(name, np.asarray(values, dtype=np.int64))

    def initializer(self, name: str) -> onnx.TensorProto | None:
        """Return a constant as an initializer; None if `name` is a tensor that is computed."""
        return numpy_helper.from_array(self._constants[name], name) if name in self._initializers else None

    def taken_initializers(self) -> Iterator[onnx.TensorProto]:
        """Yield all initializers in the order of their first use, and remove all constants, to free their memory."""
        constants, self._constants = self._constants, {}
        taken = [(name, constants[name]) for name in reversed(self._initializers)]
        constants.clear()
        self._initializers.clear()
        while taken:
            name, values = taken.pop()
            yield numpy_helper.from_array(values, name)
