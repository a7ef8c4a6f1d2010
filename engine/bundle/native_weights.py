"""`NativeModel`: the weights file of the native kernels.

The file has the safetensors format and is memory-mapped. The weights are in INT8, BF16 or FP32 for CPUs, and in FP16 for GPUs.
Every width is padded with zeros to a multiple of 32 channels, and so is each attention head. For CPUs the weights are packed
into panels of 32 output channels, with four, two or one input channels interleaved (engine/kernels/native/gemm.h has a
picture). For GPUs they are [outputs, inputs]. Names, dtypes and shapes of all tensors follow from `ModelDims`, which the header
holds. A file that deviates is refused before the kernels see it.
"""

import dataclasses
import json
import mmap
import re
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
from ..text.tokenizer import MAX_TOKENS
from .manifest import MAX_LABELS, MAX_POSITIONS, Manifest

FORMAT = "crossrt native 7"
FIELDS_OF_FORMAT_4 = ("architecture", "pooling", "window", "head_norm", "embedding")
NEWER_FIELDS = ("rotated", "activation_balance", "hidden_activation", *FIELDS_OF_FORMAT_4, "padding")
"""Fields of `ModelDims` that came after the oldest format, with formats 7, 6, 5, 4 and 3."""
OLDER_FORMATS = {
    "crossrt native 6": NEWER_FIELDS[:1],
    "crossrt native 5": NEWER_FIELDS[:2],
    "crossrt native 4": NEWER_FIELDS[:3],
    "crossrt native 3": NEWER_FIELDS[:-1],
    "crossrt native 2": NEWER_FIELDS,
}
"""Formats that are still read, with the fields that they lack."""
MAX_HEADER_BYTES = 1 << 24
"""A model of 48 layers has a header of 0.1 MB."""
MAX_DIMS = {
    **{
        "hidden": 1 << 16,
        "heads": 1 << 10,
        "head": 1 << 12,
        "intermediate": 1 << 16,
        "layers": 1 << 10,
        "types": 255,  # fewer than uint8 has, so that `Batch.pairs` has a number for types that no model has
    },
    **{
        "vocab": MAX_TOKENS,
        "positions": MAX_POSITIONS,
        "labels": MAX_LABELS,
        "dense": 1 << 4,
        "padding": MAX_TOKENS,
        "window": MAX_POSITIONS,
        "embedding": 1 << 16,
    },
}
"""Bounds within which the kernels' integers cannot overflow: the largest INT8 sum is 255 x 127 x 65,536, which is below 2^31."""
PANEL = 32
"""Output channels of a panel (`PANEL` in native/gemm.h), and the multiple that widths are padded to."""
OUTLIER_CHANNELS = 4
"""Input channels of the second feed-forward layer that INT8 multiplies in FP32 (`Int8::OutlierChannels` in
native/precision.h)."""
GATE_SCALE = 16
"""On GPUs the products of a ModernBERT's values and gates are divided by this before they are stored in FP16, since a product of
two numbers overflows sooner than the numbers. The product with the next weights is multiplied by it."""
ALIGNMENT = 64
"""Bytes of a vector load: each panel begins at a multiple of this."""
WEIGHT_LAYOUTS = {"fp32": ("F32", 1), "bf16": ("BF16", 2), "int8": ("I8", 4)}
"""Precision on a CPU -> the dtype of the linear layers' weights, and how many of their input channels are interleaved."""
ACTIVATIONS = ("none", "tanh", "relu", "gelu", "gelu_tanh", "silu")
"""Activations between the linear layers of a head, in the order of `Activation` in native/model_dims.h. `gelu_tanh` is the tanh
approximation of GELU."""
GPU_ACTIVATIONS = ("none", "tanh", "relu", "gelu")
"""The activations between these layers that the GPU kernels compute."""
ARCHITECTURES = ("bert", "modernbert")
"""Encoders that the kernels compute, in the order of `Architecture` in native/model_dims.h."""
POOLINGS = ("cls", "mean")
"""What the head reads, in the order of `Pooling` in native/model_dims.h."""
TEXT_FIELDS = ("precision", "activation", "architecture", "pooling", "hidden_activation")
"""Fields of `ModelDims` that are text; the others are numbers."""
DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),  # the bits, since NumPy has no bfloat16
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "I8": np.dtype("i1"),
    "I32": np.dtype("<i4"),
}

Tensors = Iterator[tuple[str, str, tuple[int, ...]]]


def padded(width: int) -> int:
    """Round a width up to a multiple of 32."""
    return -(-width // PANEL) * PANEL


def hidden_activations(*, for_gpus: bool, gated: bool) -> tuple[str, ...]:
    """Return the activations that the kernels compute between the feed-forward layers, which are `gated` in a ModernBERT."""
    if not for_gpus:
        return ("gelu", "gelu_tanh", "relu", "silu")
    # A BERT's activation is fused into cuBLAS's product, whose only GELU is the tanh approximation. A ModernBERT's is part of
    # the gate kernel.
    return ("gelu",) if gated else ("gelu", "gelu_tanh")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDims:
    """The dimensions of a model, and the precision of its linear layers.

    - `hidden`, `intermediate`: channels of the hidden states, not padded, and of the feed-forward layers, padded.
    - `heads`, `head`: attention heads, and the channels of one, padded.
    - `types`: token types; 0 for a model without them.
    - `positions`: the longest pair, in tokens.
    - `dense`, `labels`, `activation`: the number of linear layers of the classification head, its outputs, and the activation
      between the layers.
    - `epsilon`: of LayerNorm.
    - `padding`: the id of the padding token in a model that, like RoBERTa, does not count padding as positions; None in a model
      that counts every token. In the former, row 0 of the position table is that of padding, which a text can contain too.
    - `architecture`: `bert`, or `modernbert`, which has neither token types nor a table of positions.
    - `pooling`: what the head reads: `[CLS]` or, in a ModernBERT, also the mean of all tokens.
    - `window`: how many positions away a token attends, at most, in those layers of a ModernBERT that have a window.
    - `embedding`: channels of the embeddings, not padded, if they are projected to the hidden states; otherwise None.
    - `head_norm`: whether LayerNorm comes before the last linear layer of the head.
    - `hidden_activation`: the activation between the two feed-forward layers.
    - `activation_balance`: whether INT8 has multipliers for the channels of that activation. A ModernBERT's are part of the
      weights of its gates.
    - `rotated`: whether INT8 rotates what it quantizes, except attention's contexts: see `Int8::rotate` in native/precision.h.
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
    architecture: str = "bert"
    pooling: str = "cls"
    window: int = 0
    head_norm: bool = False
    embedding: int | None = None
    hidden_activation: str = "gelu"
    activation_balance: bool = False
    rotated: bool = False

    @property
    def is_modern(self) -> bool:
        """Whether the model is a ModernBERT."""
        return self.architecture == "modernbert"

    @property
    def width(self) -> int:
        """Channels of the hidden states, padded."""
        return padded(self.hidden)

    @property
    def embedding_width(self) -> int:
        """Channels of an embedding, padded."""
        return self.width if self.embedding is None else padded(self.embedding)

    @property
    def attention_width(self) -> int:
        """Channels of all attention heads together."""
        return self.heads * self.head

    @property
    def position_rows(self) -> int:
        """Rows of the position table."""
        return self.positions + (self.padding is not None)

    @property
    def is_int8(self) -> bool:
        """Whether the linear layers are in INT8."""
        return self.precision == "int8"

    @property
    def for_gpus(self) -> bool:
        """Whether the file is for the kernels on GPUs."""
        return self.precision == "fp16"

    def tensors(self) -> Tensors:
        """Yield name, dtype and shape of every tensor, in the order of the file and of the C++ constructors that read it.

        In INT8 `balance` holds the multipliers of channels (the reciprocals of SmoothQuant's smoothing factors), `kept` the
        numbers of the outlier channels, and `output.kept` their weights.

        A ModernBERT's `rotary` tensors hold, for each position, the cosines and then the sines of the angles. One is for layers
        without a window, the other for layers with one; `has_window` is 1 for the latter. In queries and keys the two channels
        of an angle are 16 apart, and `intermediate` has the gates of 16 channels after those channels, so that the kernels find
        both in one panel. LayerNorm comes before each part, so the one at the end of a layer is the next layer's. On GPUs the
        layers whose results are added to the FP32 sums have biases in FP32.
        """
        width, attention_width = self.width, self.attention_width
        yield "word", "F32" if self.precision == "fp32" else "F16", (self.vocab, self.embedding_width)
        if self.is_modern:
            yield "rotary.full_attention", "F32", (self.positions, self.head)
            yield "rotary.sliding_attention", "F32", (self.positions, self.head)
        else:
            yield "position", "F32", (self.position_rows, self.embedding_width)
            yield "type", "F32", (self.types, self.embedding_width)
        yield from self._norm("embedding_norm", self.embedding_width)
        if self.embedding is not None:
            yield from self._linear("project", self.embedding_width, width)
            if self.is_int8:
                yield "project.balance", "F32", (width,)
        for number in range(self.layers):
            layer = f"layer.{number}"
            if self.is_modern or number < self.layers - 1:
                yield from self._linear(f"{layer}.query_key_value", width, 3 * attention_width)
            else:
                yield from self._linear(f"{layer}.query", width, attention_width)
                yield from self._last_keys_and_values(layer)
            yield from self._linear(f"{layer}.attention_output", attention_width, width, added=True)
            wide = 2 * self.intermediate if self.is_modern else self.intermediate
            yield from self._linear(f"{layer}.intermediate", width, wide)
            yield from self._linear(f"{layer}.output", self.intermediate, width, added=True)
            if self.is_int8:
                yield f"{layer}.output.kept", "F32", (OUTLIER_CHANNELS, width)
            if self.activation_balance:
                yield f"{layer}.activation.balance", "F32", (self.intermediate,)
            for norm in self.norms_of(number):
                yield from self._norm(norm, width)
        for number in range(self.dense):
            out = self.labels if number == self.dense - 1 else self.hidden
            # On GPUs cuBLAS computes the layers of the head, except the last, which has a kernel.
            by_cublas = self.for_gpus and number < self.dense - 1
            yield f"head.{number}.weight", *(("F16", (width, width)) if by_cublas else ("F32", (self.hidden, out)))
            yield f"head.{number}.bias", "F32", (width if by_cublas else out,)
        if self.head_norm:
            yield "head.norm.weight", "F32", (self.hidden,)
            yield "head.norm.bias", "F32", (self.hidden,)
        # After all panels: in front of them, these would break the panels' alignment.
        if self.is_modern:
            yield "has_window", "I32", (self.layers,)
        if self.is_int8:
            yield "kept", "I32", (self.layers, OUTLIER_CHANNELS)

    def norms_of(self, number: int) -> tuple[str, str]:
        """Return the names of the LayerNorms that follow a layer's attention and its feed-forward part."""
        layer = f"layer.{number}"
        if not self.is_modern:
            return f"{layer}.attention_norm", f"{layer}.output_norm"
        after = "final_norm" if number == self.layers - 1 else f"layer.{number + 1}.attention_norm"
        return f"{layer}.feed_forward_norm", after

    def _last_keys_and_values(self, layer: str) -> Tensors:
        width, attention_width = self.width, self.attention_width
        if self.for_gpus:
            yield from self._linear(f"{layer}.key_value", width, 2 * attention_width)
            return
        # `LastLayer` in native/model.h explains this layout.
        dtype, interleaved = WEIGHT_LAYOUTS["fp32" if self.precision == "fp32" else "bf16"]
        key = (self.heads, width // PANEL, self.head // interleaved, PANEL, interleaved)
        yield f"{layer}.key.weight", dtype, key
        yield f"{layer}.value.weight", dtype, (attention_width // PANEL, width // interleaved, PANEL, interleaved)
        yield f"{layer}.value.bias", "F32", (attention_width,)

    def _norm(self, name: str, width: int) -> Tensors:
        for part in ("weight", "bias", "balance") if self.is_int8 else ("weight", "bias"):
            yield f"{name}.{part}", "F32", (width,)

    def _linear(self, name: str, inputs: int, outputs: int, *, added: bool = False) -> Tensors:
        if self.for_gpus:
            yield f"{name}.weight", "F16", (outputs, inputs)
            yield f"{name}.bias", "F32" if added and self.is_modern else "F16", (outputs,)
            return
        dtype, interleaved = WEIGHT_LAYOUTS[self.precision]
        yield f"{name}.weight", dtype, (outputs // PANEL, inputs // interleaved, PANEL, interleaved)
        for part in ("scale", "sums", "bias") if self.is_int8 else ("bias",):
            yield f"{name}.{part}", "F32", (outputs,)

    def check(self) -> None:
        """Raise ValueError unless the kernels can compute a model of these dimensions."""
        for name, high in MAX_DIMS.items():
            number, low = getattr(self, name), 0 if name in ("types", "padding", "window") else 1
            if number is not None and not low <= number <= high:
                raise ValueError(f"{name} is {number}, expected {low} to {high}")
        if self.attention_width > MAX_DIMS["hidden"] or (self.padding is not None and self.padding >= self.vocab):
            raise ValueError(f"{self.heads} heads of {self.head} channels or padding {self.padding} are not possible")
        if self.for_gpus and self.position_rows > 1 << 16:
            raise ValueError(f"{self.positions} positions are too many for a GPU's kernels")
        if self.head % PANEL or self.intermediate % PANEL:
            raise ValueError(f"head {self.head} and intermediate {self.intermediate} must be multiples of {PANEL}")
        if self.is_modern and (self.types or self.padding is not None):
            raise ValueError("a ModernBERT has no token types and counts every token")
        if self.architecture not in ARCHITECTURES or self.pooling not in (POOLINGS if self.is_modern else ("cls",)):
            raise ValueError(f"architecture {self.architecture!r} or pooling {self.pooling!r} is none")
        if self.activation_balance and (self.is_modern or not self.is_int8):
            raise ValueError("the channels of activations are balanced in a BERT in INT8")
        if self.rotated and not self.is_int8:
            raise ValueError("what is quantized is rotated, in INT8 alone")
        if self.head_norm and self.dense == 1:
            raise ValueError("LayerNorm in the head comes between two linear layers")
        if self.embedding is not None and self.is_modern:
            raise ValueError("embeddings are projected in a BERT")
        if self.hidden_activation not in hidden_activations(for_gpus=self.for_gpus, gated=self.is_modern):
            raise ValueError(f"the hidden activation {self.hidden_activation!r} is none that the kernels compute")
        if (
            self.precision not in (*WEIGHT_LAYOUTS, "fp16")
            or self.activation not in (GPU_ACTIVATIONS if self.for_gpus else ACTIVATIONS)
            or not 0 < self.epsilon < 1
        ):
            raise ValueError(
                f"precision {self.precision!r}, activation {self.activation!r} or epsilon {self.epsilon} is none"
            )


@dataclass(frozen=True, slots=True)
class NativeModel:
    """Dimensions, and the arrays in the order of `ModelDims.tensors`. The arrays are views of the mapped file."""

    dims: ModelDims
    arrays: tuple[npt.NDArray[Any], ...]

    @classmethod
    def open(cls, path: Path) -> "NativeModel":
        """Map a file. Raises BundleError if it cannot be read, has a newer format, or is not what `write` writes."""
        try:
            with path.open("rb") as file:
                content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            length = int.from_bytes(content[:8], "little")
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"its header has {length:,} bytes, and at most {MAX_HEADER_BYTES:,} are read")
            header = parsed(bytes(content[8 : 8 + length]).decode())
            if not isinstance(header, dict):
                raise ValueError("its header is no object")
            dims = _dims_of(path, header.pop("__metadata__", None))
            dims.check()
            arrays, begin = [], 0
            # Lazily: the first tensor that is not in the header ends the loop, so a header that claims many layers costs nothing.
            for name, dtype, shape in dims.tensors():
                end = begin + prod(shape) * DTYPES[dtype].itemsize
                if header.pop(name, None) != _entry(dtype, shape, begin, end) or 8 + length + end > len(content):
                    raise ValueError(f"the tensor {name} is not the one of its sizes")
                arrays.append(np.ndarray(shape, DTYPES[dtype], content, 8 + length + begin))
                begin = end
            if header or len(content) != 8 + length + begin or (8 + length) % ALIGNMENT:
                raise ValueError("its tensors are not those of its sizes")
            if dims.is_int8 and not 0 <= arrays[-1].min() <= arrays[-1].max() < dims.intermediate:
                raise ValueError("it names kept channels that are not there")
            if dims.is_modern and not np.isin(arrays[-1 - dims.is_int8], (0, 1)).all():
                raise ValueError("it does not say which layers have a window")
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be used ({error}); export the bundle again") from error
        return cls(dims, tuple(arrays))

    def check_belongs(self, path: Path, manifest: Manifest, precision: Precision) -> None:
        """Raise BundleError, naming the file, if it is another model's, or too old to say how this model counts positions."""
        dims = self.dims
        found = (dims.precision, dims.positions, dims.labels)
        if found != (precision.value, manifest.max_positions, manifest.labels):
            raise BundleError(f"{path} is of another model than the manifest; export the bundle again")
        if dims.padding is None and manifest.architecture.get("head") == "roberta":
            raise BundleError(
                f"{path} was written by an older crossrt, which took no account of padding tokens in texts: export the bundle "
                "again, or use another backend"
            )


def write(file: BinaryIO, dims: ModelDims, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a model. `arrays` has every tensor of `dims.tensors()`.

    Dtypes are converted, except BF16, which must be given as its bits. Raises ValueError for an array of another shape.
    """
    fields = dataclasses.asdict(dims).items()
    metadata = {"format": FORMAT} | {
        name: value if name in TEXT_FIELDS else json.dumps(value) for name, value in fields
    }
    text = json.dumps({"__metadata__": metadata} | _entries(dims)).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name, dtype, shape in dims.tensors():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} is {list(arrays[name].shape)}, expected {list(shape)}")
        file.write(np.ascontiguousarray(arrays[name], dtype=DTYPES[dtype]).data)


def _dims_of(path: Path, metadata: Any) -> ModelDims:
    """Read the metadata of a header, whose values are all strings. Raises ValueError, and BundleError for a newer format."""
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) and len(value) <= 64 for value in metadata.values()
    ):
        raise ValueError("its header has no sizes")
    version = metadata.pop("format", "")
    if _number_of(version) > _number_of(FORMAT):
        raise BundleError(
            f"{path} has the format {version!r}, and this crossrt reads up to {FORMAT!r}: install a newer crossrt, export the "
            "bundle again with this one, or use another backend"
        )
    if version != FORMAT and version not in OLDER_FORMATS:
        raise ValueError(f"it is not of the format {FORMAT!r}")
    absent = OLDER_FORMATS.get(version, ())
    if any((name in metadata) == (name in absent) for name in NEWER_FIELDS):
        raise ValueError(f"its header has not the sizes of the format {version!r}")
    return record(
        ModelDims, {name: value if name in TEXT_FIELDS else parsed(value) for name, value in metadata.items()}
    )


def _number_of(version: str) -> int:
    """Return the number of a format; 0 for a text that is not the name of one."""
    found = re.fullmatch(r"crossrt native ([1-9][0-9]{0,8})", version)
    return int(found[1]) if found else 0


def _entry(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, Any]:
    """Return the header's entry of a tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _entries(dims: ModelDims) -> dict[str, Any]:
    """Return the header's entries of all tensors."""
    entries, begin = {}, 0
    for name, dtype, shape in dims.tensors():
        end = begin + prod(shape) * DTYPES[dtype].itemsize
        entries[name] = _entry(dtype, shape, begin, end)
        begin = end
    return entries
