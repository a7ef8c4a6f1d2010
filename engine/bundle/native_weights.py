"""`NativeModel`: the weights that the native kernels compute from, as they lie in a bundle.

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

from ..errors import BundleError
from ..files.record import parsed, record
from ..precision import Precision
from ..text.tokenizer import MOST_TOKENS
from .manifest import MOST_LABELS, MOST_POSITIONS, Manifest

FORMAT = "crossrt native 3"
PLAIN_FORMAT = "crossrt native 2"
"""The one before, which did not say whether positions pass over padding; a model whose positions do not is read still."""
MOST_HEADER = 1 << 24
"""Bytes of a header; that of a model of 48 layers has 0.1 million."""
MOST = {
    **{
        "hidden": 1 << 16,
        "heads": 1 << 10,
        "head": 1 << 12,
        "intermediate": 1 << 16,
        "layers": 1 << 10,
        "types": 1 << 8,
    },
    **{
        "vocab": MOST_TOKENS,
        "positions": MOST_POSITIONS,
        "labels": MOST_LABELS,
        "dense": 1 << 4,
        "padding": MOST_TOKENS,
    },
}
"""Bounds within which the kernels' arithmetic is sure not to overflow: 255 x 127 x 65,536 is the largest sum of INT8."""
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
TEXTS = ("precision", "activation")
"""Of the sizes; the others are numbers."""
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
class ModelDims:
    """A model's sizes, and the `precision` of its linear layers. `head` and `intermediate` are padded, `hidden` is not. `types`
    is 0 for a model whose token types make no difference; `dense` counts the head's linear layers, between which
    `activation` is.

    `padding` is the padding's id in a model that counts positions over the other tokens alone, as RoBERTa does, and None in
    one that counts all. In the first the table of positions begins with the row of padding, which a text can hold too.
    """

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
    padding: int | None = None

    @property
    def places(self) -> int:
        """Rows of the table of positions."""
        return self.positions + (self.padding is not None)

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
        yield "position", "F32", (self.places, width)
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
        for name, most in MOST.items():
            number, least = getattr(self, name), 0 if name in ("types", "padding") else 1
            if number is not None and not least <= number <= most:
                raise ValueError(f"{name} is {number}, expected {least} to {most}")
        if self.heads * self.head > MOST["hidden"] or (self.padding is not None and self.padding >= self.vocab):
            raise ValueError(f"{self.heads} heads of {self.head} channels or padding {self.padding} are not possible")
        if self.for_gpus and self.places > 1 << 16:
            raise ValueError(f"{self.positions} positions are too many for a GPU's kernels")
        if self.head % PANEL or self.intermediate % PANEL:
            raise ValueError(f"head {self.head} and intermediate {self.intermediate} must be multiples of {PANEL}")
        if self.precision not in (*WEIGHTS, "fp16") or self.activation not in ACTIVATIONS or not 0 < self.epsilon < 1:
            raise ValueError(
                f"precision {self.precision!r}, activation {self.activation!r} or epsilon {self.epsilon} is none"
            )


@dataclass(frozen=True, slots=True)
class NativeModel:
    """ModelDims, and the arrays in the order of `ModelDims.tensors`."""

    sizes: ModelDims
    arrays: tuple[npt.NDArray[Any], ...]

    @classmethod
    def open(cls, path: Path) -> "NativeModel":
        """Map a file. Raises BundleError for one that cannot be read, or is anything but what `write` writes."""
        try:
            with path.open("rb") as file:
                content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            length = int.from_bytes(content[:8], "little")
            if length > MOST_HEADER:
                raise ValueError(f"its header has {length:,} bytes, and at most {MOST_HEADER:,} are read")
            header = parsed(bytes(content[8 : 8 + length]).decode())
            if not isinstance(header, dict):
                raise ValueError("its header is no object")
            sizes = _sizes(header.pop("__metadata__", None))
            sizes.check()
            arrays, begin = [], 0
            # One tensor after the other: what is not in the header ends this, however many the sizes would make.
            for name, dtype, shape in sizes.tensors():
                end = begin + prod(shape) * DTYPES[dtype].itemsize
                if header.pop(name, None) != _entry(dtype, shape, begin, end) or 8 + length + end > len(content):
                    raise ValueError(f"the tensor {name} is not the one of its sizes")
                arrays.append(np.ndarray(shape, DTYPES[dtype], content, 8 + length + begin))
                begin = end
            if header or len(content) != 8 + length + begin or (8 + length) % ALIGNMENT:
                raise ValueError("its tensors are not those of its sizes")
            if sizes.eight_bit and not 0 <= arrays[-1].min() <= arrays[-1].max() < sizes.intermediate:
                raise ValueError("it names kept channels that are not there")
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be used ({error}); export the bundle again") from error
        return cls(sizes, tuple(arrays))

    def check_belongs(self, path: Path, manifest: Manifest, precision: Precision) -> None:
        """Raise BundleError, naming the file, when this is of another model than the manifest, or cannot be computed rightly."""
        sizes = self.sizes
        found = (sizes.precision, sizes.positions, sizes.labels)
        if found != (precision.value, manifest.max_positions, manifest.labels):
            raise BundleError(f"{path} is of another model than the manifest; export the bundle again")
        if sizes.padding is None and manifest.architecture.get("head") == "roberta":
            raise BundleError(
                f"{path} was written by an older crossrt, which took no account of padding tokens in texts: export the bundle "
                "again, or use another backend"
            )


def write(file: BinaryIO, sizes: ModelDims, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a model. `arrays` has every tensor that `sizes` names, in its shape; dtypes are converted, but BF16 comes as bits."""
    fields = dataclasses.asdict(sizes).items()
    metadata = {"format": FORMAT} | {name: value if name in TEXTS else json.dumps(value) for name, value in fields}
    text = json.dumps({"__metadata__": metadata} | _entries(sizes)).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name, dtype, shape in sizes.tensors():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} is {list(arrays[name].shape)}, expected {list(shape)}")
        file.write(np.ascontiguousarray(arrays[name], dtype=DTYPES[dtype]).tobytes())


def _sizes(said: Any) -> ModelDims:
    """Read the metadata of a header, whose values are all texts. Raises ValueError."""
    if not isinstance(said, dict) or not all(isinstance(value, str) and len(value) <= 64 for value in said.values()):
        raise ValueError("its header has no sizes")
    version = said.pop("format", None)
    if version not in (FORMAT, PLAIN_FORMAT):
        raise ValueError(f"it is not of the format {FORMAT!r}")
    if ("padding" in said) != (version == FORMAT):
        raise ValueError(f"its header has not the sizes of the format {version!r}")
    return record(ModelDims, {name: value if name in TEXTS else parsed(value) for name, value in said.items()})


def _entry(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, Any]:
    """What the file's header says of a tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _entries(sizes: ModelDims) -> dict[str, Any]:
    """What the file's header says of each tensor."""
    entries, begin = {}, 0
    for name, dtype, shape in sizes.tensors():
        end = begin + prod(shape) * DTYPES[dtype].itemsize
        entries[name] = _entry(dtype, shape, begin, end)
        begin = end
    return entries
