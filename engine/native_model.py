"""`NativeModel`: the weights that crossrt's own kernels compute from, as they lie in a bundle.

A file in the safetensors format, mapped and not read, of weights in 8 bits, BF16 or FP32 for processors, and in FP16 for GPUs.
Every width is padded to a multiple of 32 channels, and so is each attention head. For processors weights lie in panels of 32
output channels, four, two or one input channels side by side, as `native/product.h` wants them; for GPUs they are [outputs,
inputs]. What is in the file follows from its sizes alone, so a file that does not fit them is refused before the kernels see it.
"""

import dataclasses
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import BundleError

FORMAT = "crossrt native 2"
PANEL = 32
"""Output channels side by side, and what widths are padded to."""
KEPT = 4
"""Channels of the second feed-forward layer's input that stay in FP32 where the others are in 8 bits."""
ALIGNMENT = 64
"""Bytes that the kernels load at once."""
WEIGHTS = {"fp32": ("F32", 1), "bf16": ("BF16", 2), "int8": ("I8", 4)}
"""By a processor's precision: what the weights of linear layers are stored in, and how many input channels of a panel lie side by
side."""
ACTIVATIONS = ("none", "tanh", "relu", "gelu")
"""Between the layers of a head. Both in the order that the kernels number them."""
DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),  # NumPy has none; these are its bits
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "I8": np.dtype("i1"),
    "I32": np.dtype("<i4"),
}

Tensors = Iterator[tuple[str, str, tuple[int, ...]]]


def padded(width: int) -> int:
    """Return the next multiple of 32."""
    return -(-width // PANEL) * PANEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A model's sizes, and the `precision` of its linear layers. `head` and `intermediate` are padded, `hidden` is not. `types`
    is 0 for a model whose token types make no difference; `dense` counts the head's linear layers, between which
    `activation` is."""

    precision: str
    hidden: int
    heads: int
    head: int
    intermediate: int
    layers: int
    types: int
    vocab: int
    positions: int
    labels: int
    dense: int
    activation: str
    epsilon: float

    @property
    def eight_bit(self) -> bool:
        """Whether the linear layers are in 8 bits."""
        return self.precision == "int8"

    @property
    def for_gpus(self) -> bool:
        """Whether GPUs compute it, and not processors."""
        return self.precision == "fp16"

    def tensors(self) -> Tensors:
        """Name, dtype and shape of every tensor, in the order of the file and of the kernels' arguments."""
        width, attended = padded(self.hidden), self.heads * self.head
        yield "word", "F32" if self.precision == "fp32" else "F16", (self.vocab, width)
        yield "position", "F32", (self.positions, width)
        yield "type", "F32", (self.types, width)
        yield from self._norm("embedding_norm")
        for number in range(self.layers):
            layer = f"layer.{number}"
            if number < self.layers - 1:
                yield from self._linear(f"{layer}.query_key_value", width, 3 * attended)
            else:
                yield from self._linear(f"{layer}.query", width, attended)
                yield from self._last_keys_and_values(layer)
            yield from self._linear(f"{layer}.attention_output", attended, width)
            yield from self._linear(f"{layer}.intermediate", width, self.intermediate)
            yield from self._linear(f"{layer}.output", self.intermediate, width)
            if self.eight_bit:
                yield f"{layer}.output.kept", "F32", (KEPT, width)
            yield from self._norm(f"{layer}.attention_norm")
            yield from self._norm(f"{layer}.output_norm")
        for number in range(self.dense):
            out = self.labels if number == self.dense - 1 else self.hidden
            # On GPUs a head's layer is a product like the encoder's, but for the last, which a kernel computes.
            product = self.for_gpus and number < self.dense - 1
            yield f"head.{number}.weight", *(("F16", (width, width)) if product else ("F32", (self.hidden, out)))
            yield f"head.{number}.bias", "F32", (width if product else out,)
        if self.eight_bit:
            yield "kept", "I32", (self.layers, KEPT)

    def _last_keys_and_values(self, layer: str) -> Tensors:
        width, attended = padded(self.hidden), self.heads * self.head
        if self.for_gpus:
            yield from self._linear(f"{layer}.key_value", width, 2 * attended)
            return
        # See `Last` in native/encoder.h.
        dtype, side_by_side = WEIGHTS["fp32" if self.precision == "fp32" else "bf16"]
        key = (self.heads, width // PANEL, self.head // side_by_side, PANEL, side_by_side)
        yield f"{layer}.key.weight", dtype, key
        yield f"{layer}.value.weight", dtype, (attended // PANEL, width // side_by_side, PANEL, side_by_side)
        yield f"{layer}.value.bias", "F32", (attended,)

    def _norm(self, name: str) -> Tensors:
        for part in ("weight", "bias", "balance") if self.eight_bit else ("weight", "bias"):
            yield f"{name}.{part}", "F32", (padded(self.hidden),)

    def _linear(self, name: str, inputs: int, outputs: int) -> Tensors:
        if self.for_gpus:
            yield f"{name}.weight", "F16", (outputs, inputs)
            yield f"{name}.bias", "F16", (outputs,)
            return
        dtype, side_by_side = WEIGHTS[self.precision]
        yield f"{name}.weight", dtype, (outputs // PANEL, inputs // side_by_side, PANEL, side_by_side)
        for part in ("scale", "sums", "bias") if self.eight_bit else ("bias",):
            yield f"{name}.{part}", "F32", (outputs,)

    def check(self) -> None:
        """Raise ValueError unless the kernels can compute a model of these sizes."""
        whole = {name: value for name, value in dataclasses.asdict(self).items() if type(value) is int}
        if not all(0 <= value < 1 << 30 for value in whole.values()):
            raise ValueError(f"sizes must not be negative, got {whole}")
        if not all(value for name, value in whole.items() if name != "types"):
            raise ValueError(f"only `types` may be 0, got {whole}")
        if self.head % PANEL or self.intermediate % PANEL:
            raise ValueError(f"head {self.head} and intermediate {self.intermediate} must be multiples of {PANEL}")
        if self.precision not in (*WEIGHTS, "fp16") or self.activation not in ACTIVATIONS or not self.epsilon > 0:
            raise ValueError(
                f"precision {self.precision!r}, activation {self.activation!r} or epsilon {self.epsilon} is none"
            )


@dataclass(frozen=True, slots=True)
class NativeModel:
    """Sizes, and the arrays in the order of `Sizes.tensors`."""

    sizes: Sizes
    arrays: tuple[npt.NDArray[Any], ...]

    @classmethod
    def open(cls, path: Path) -> "NativeModel":
        """Map a file. Raises BundleError for one that cannot be read, or is anything but what `write` writes."""
        try:
            with path.open("rb") as file:
                content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            length = int.from_bytes(content[:8], "little")
            header = json.loads(bytes(content[8 : 8 + length]))
            said = header.pop("__metadata__")
            if said.pop("format") != FORMAT:
                raise ValueError(f"it is not of the format {FORMAT!r}")
            kinds = {field.name: field.type for field in dataclasses.fields(Sizes)}
            sizes = Sizes(**{name: kinds[name](value) for name, value in said.items()})  # type: ignore[operator]
            sizes.check()
            entries, end = _entries(sizes)
            if header != entries or len(content) != 8 + length + end or (8 + length) % ALIGNMENT:
                raise ValueError("its tensors are not those of its sizes")
            arrays = tuple(
                np.ndarray(entry["shape"], DTYPES[entry["dtype"]], content, 8 + length + entry["data_offsets"][0])
                for entry in entries.values()
            )
            if sizes.eight_bit and not 0 <= arrays[-1].min() <= arrays[-1].max() < sizes.intermediate:
                raise ValueError("it names kept channels that are not there")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{path} cannot be used ({error}); export the bundle again") from error
        return cls(sizes, arrays)


def write(file: BinaryIO, sizes: Sizes, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a model. `arrays` has every tensor that `sizes` names, in its shape; dtypes are converted, but BF16 comes as bits."""
    metadata = {"format": FORMAT} | {name: str(value) for name, value in dataclasses.asdict(sizes).items()}
    text = json.dumps({"__metadata__": metadata} | _entries(sizes)[0]).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name, dtype, shape in sizes.tensors():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} is {list(arrays[name].shape)}, expected {list(shape)}")
        file.write(np.ascontiguousarray(arrays[name], dtype=DTYPES[dtype]).tobytes())


def _entries(sizes: Sizes) -> tuple[dict[str, Any], int]:
    """What the file's header says of each tensor, and how many bytes they take."""
    entries, begin = {}, 0
    for name, dtype, shape in sizes.tensors():
        end = begin + prod(shape) * DTYPES[dtype].itemsize
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    return entries, begin
