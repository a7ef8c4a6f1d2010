"""`OnnxFile`: properties of a foreign ONNX file, read without the package onnx and without running the file.

Only the needed fields are decoded, from the protobuf wire format. Field numbers are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...engine.errors import CheckpointError
from ...engine.precision import Precision

FLOAT, FLOAT16, DOUBLE, BFLOAT16 = 1, 10, 11, 16
_KINDS = {FLOAT: np.float32, FLOAT16: np.float16, DOUBLE: np.float64}
EXTERNAL = 1  # TensorProto.DataLocation
QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "MatMulIntegerToFloat",
    "QAttention",
    "QGemm",
    "QEmbedLayerNormalization",
    "QOrderedMatMul",
    "QOrderedAttention",
)
"""Operators of 8-bit models, in addition to those whose names begin with QLinear."""
FEW_BITS = ("MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized")
DEPTH = 16
"""Maximum depth of nested graphs that is read."""


@dataclass(slots=True)
class OnnxFile:
    """The `operators` of a graph and its subgraphs, and properties of its stored tensors.

    `elements` is the number of elements of each data type, `external` the names of the files with external data, and `with_nan`
    the name of a tensor that contains NaN.
    """

    path: Path
    operators: set[str] = field(default_factory=set)
    elements: dict[int, int] = field(default_factory=dict)
    external: set[str] = field(default_factory=set)
    with_nan: str | None = None

    @classmethod
    def read(cls, path: Path) -> "OnnxFile":
        """Read a file and the files with its external data.

        Raises CheckpointError if it is not a complete ONNX file, and for tensors in files outside its folder.
        """
        read = cls(path)
        try:
            with path.open("rb") as opened:
                # Not closed here, which would raise while an error's traceback holds a view. It is unmapped with its last view.
                content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            if content[:40].startswith(b"version https://git-lfs"):
                raise CheckpointError(f"{path} is a Git LFS pointer, not the model; fetch it with: git lfs pull")
            read._model(memoryview(content))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error})") from error
        except (_MessageError, ValueError) as error:  # mmap raises ValueError for an empty file
            raise CheckpointError(
                f"{path} is not an ONNX file, or not a whole one ({error}); fetch it again"
            ) from error
        return read

    @property
    def precision(self) -> Precision:
        """The precision in which the file computes. Raises CheckpointError for formats that are no precision of crossrt."""
        few = sorted(self.operators.intersection(FEW_BITS))
        if few:
            raise CheckpointError(
                f"{self.path} holds weights of 4 bits or so ({', '.join(few)}), which crossrt has no precision for; take an "
                "FP32, FP16 or INT8 file"
            )
        if any(name.startswith("QLinear") or name in QUANTIZED for name in self.operators):
            return Precision.INT8
        floats = {kind: self.elements.get(kind, 0) for kind in (FLOAT, DOUBLE, FLOAT16, BFLOAT16)}
        most = max(floats, key=lambda kind: floats[kind])
        if most == BFLOAT16:
            raise CheckpointError(f"{self.path} holds weights in BF16, which ONNX Runtime does not compute on a CPU")
        return Precision.FP16 if most == FLOAT16 else Precision.FP32

    def _model(self, content: memoryview) -> None:
        graphs = 0
        for number, value in _fields(content):
            if number == 7 and isinstance(value, memoryview):
                graphs += 1
                self._graph(value, 0)
            elif number == 25 and isinstance(value, memoryview):  # functions
                self._nodes(value, 7, 0)
        if not graphs:
            raise _MessageError("it has no graph")

    def _graph(self, content: memoryview, depth: int) -> None:
        self._nodes(content, 1, depth)
        for number, value in _fields(content):
            if number == 5 and isinstance(value, memoryview):
                self._tensor(value)

    def _nodes(self, content: memoryview, field_number: int, depth: int) -> None:
        if depth > DEPTH:
            raise _MessageError(f"graphs are nested more than {DEPTH} deep")
        for number, node in _fields(content):
            if number != field_number or not isinstance(node, memoryview):
                continue
            for part, value in _fields(node):
                if part == 4 and isinstance(value, memoryview):
                    self.operators.add(str(value, "utf-8", "replace"))
                elif part == 5 and isinstance(value, memoryview):
                    self._attribute(value, depth)

    def _attribute(self, content: memoryview, depth: int) -> None:
        for number, value in _fields(content):
            if not isinstance(value, memoryview):
                continue
            if number in (5, 10):
                self._tensor(value)
            elif number in (6, 11):
                self._graph(value, depth + 1)

    def _tensor(self, content: memoryview) -> None:
        kind, location, name, raw = 0, 0, "", None
        elements = 1
        external: dict[str, str] = {}
        integers: list[int | memoryview] = []
        has_nan = False
        for number, value in _fields(content):
            if number == 1:
                for size in _numbers(value):
                    elements *= size
            elif number == 2 and isinstance(value, int):
                kind = value
            elif number == 14 and isinstance(value, int):
                location = value
            elif number == 5:
                integers.append(value)
            elif not isinstance(value, memoryview):
                continue
            elif number == 8:
                name = str(value, "utf-8", "replace")
            elif number == 9:
                raw = value
            elif number == 4:
                has_nan |= bool(np.isnan(_array(value, np.float32)).any())
            elif number == 10:
                has_nan |= bool(np.isnan(_array(value, np.float64)).any())
            elif number == 13:
                entry = {
                    part: str(text, "utf-8", "replace") for part, text in _fields(value) if not isinstance(text, int)
                }
                external[entry.get(1, "")] = entry.get(2, "")
        self.elements[kind] = self.elements.get(kind, 0) + elements
        if location == EXTERNAL:
            self._external(name, kind, external)
            return
        if raw is not None and kind in _KINDS:
            has_nan |= bool(np.isnan(_array(raw, _KINDS[kind])).any())
        if kind == FLOAT16 and integers:  # each int32 holds the 16 bits of a number
            bits = np.fromiter((number & 0xFFFF for part in integers for number in _numbers(part)), dtype=np.uint16)
            has_nan |= bool(np.isnan(bits.view(np.float16)).any())
        if has_nan:
            self.with_nan = name

    def _external(self, tensor: str, kind: int, entries: dict[str, str]) -> None:
        location = entries.get("location", "")
        if not location or location in (".", "..") or {"/", "\\", "\0", ":"} & set(location):
            raise CheckpointError(
                f"{self.path}: the tensor {tensor!r} lies in {location!r}; weights may lie beside the model alone, so this "
                "file is refused"
            )
        self.external.add(location)
        data = self.path.parent / location
        try:
            start, size = int(entries.get("offset") or 0), data.stat().st_size
            length = int(entries.get("length") or size - start)
        except ValueError as error:
            raise _MessageError(f"the tensor {tensor!r} lies at no place in {location!r}") from error
        except OSError as error:
            raise CheckpointError(
                f"{self.path} has its weights in {location}, which cannot be read ({error})"
            ) from error
        if start < 0 or length < 0 or start + length > size:
            raise CheckpointError(
                f"{data} is truncated: it has {size:,} bytes, and the tensor {tensor!r} ends at {start + length:,}; fetch it "
                "again"
            )
        if kind in _KINDS and length >= np.dtype(_KINDS[kind]).itemsize:
            count = length // np.dtype(_KINDS[kind]).itemsize
            values = np.memmap(data, dtype=_KINDS[kind], mode="r", offset=start, shape=(count,))
            if np.isnan(values).any():
                self.with_nan = tensor


class _MessageError(Exception):
    """The bytes are not a valid protobuf message, or not a supported one."""


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field of a message: an integer for a varint, otherwise the field's bytes."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(content, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise _MessageError(f"at byte {at} of a message is no field")
        if at + length > len(content):
            raise _MessageError("a field ends after the message")
        yield number, content[at : at + length]
        at += length


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise _MessageError("a number ends after the message")
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _MessageError("a number has more than ten bytes")


def _numbers(value: int | memoryview) -> Iterator[int]:
    """Yield the numbers of a repeated field, which may be packed."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _array(content: memoryview, kind: type) -> npt.NDArray[Any]:
    size = np.dtype(kind).itemsize
    return np.frombuffer(content[: len(content) // size * size], dtype=kind)
