"""`ModernBertGraph`: a ModernBERT cross-encoder (Warner et al. 2024, arXiv:2412.13663).

It differs from BERT in four ways:

- LayerNorm comes before attention and before the feed-forward part (pre-norm). The residual sums are not normalized.
- Queries and keys have rotary position embeddings (RoFormer, Su et al. 2021, arXiv:2104.09864) instead of learned position
  embeddings.
- Most layers attend to a window of tokens.
- The feed-forward part is gated (GeGLU, Shazeer 2020, arXiv:2002.05202).

Sines, cosines and the window mask are computed once and shared by all layers. If the head reads only `[CLS]`, the last layer
computes keys and values for all tokens and everything else only for the first token. docs/decisions/0030 has the measurements.
"""

import numpy as np

from ...engine.errors import CheckpointError
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.modernbert import SLIDING, ModernBertDimensions, rotary_tables
from .encoder import EncoderGraph
from .numerics import Numerics


class ModernBertGraph(EncoderGraph):
    """The encoder and its head, part by part."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        if not isinstance(checkpoint.dimensions, ModernBertDimensions):
            raise CheckpointError(f"{checkpoint.path} is not a ModernBERT")
        self._dimensions = checkpoint.dimensions
        self._length = ""
        self._masks: dict[str, str] = {}
        self._rotary: dict[str, tuple[str, str]] = {}

    def build(self) -> None:
        """Write the whole model."""
        dimensions = self._dimensions
        self._length = self.length()
        padding = self.additive_mask()
        for kind in dict.fromkeys(dimensions.layer_types):
            self._masks[kind] = self._window(padding) if kind == SLIDING else padding
            self._rotary[kind] = self._rotary_constants(kind)
        word = self.add("Gather", [self.checkpoint_constant("word.weight"), "input_ids"], "embeddings.word")
        hidden = self.norm("embedding_norm", word)
        for number in range(dimensions.layers):
            last = number == dimensions.layers - 1
            hidden = self._pre_norm_layer(number, hidden, cls_only=last and dimensions.pooling == "cls")
        self.head(self.norm("final_norm", hidden))

    def _window(self, padding: str) -> str:
        """The mask of layers with a window, [batch, 1, S, S]: `padding`, but the lowest number for tokens too far apart."""
        positions = np.arange(self._dimensions.positions)
        row = self.first_rows(self.integers("positions.all", positions), self._length, "positions.row")
        column = self.add("Unsqueeze", [row, self.integers("axis_1d", [1])], "positions.column")
        distance = self.add("Abs", [self.add("Sub", [column, row], "positions.difference")], "positions.distance")
        window = self.integers("positions.window", self._dimensions.window)
        far = self.add("Greater", [distance, window], "positions.far")
        return self.add("Where", [far, self.mask_value(), padding], "mask.window")

    def _rotary_constants(self, kind: str) -> tuple[str, str]:
        """Cosines and sines, [sequence, channels of a head], in the form that `_with_rotary` expects."""
        cosines, sines = rotary_tables(self._dimensions.thetas[kind], self._head, self._dimensions.positions)
        tables = {"cosines": np.concatenate([cosines, cosines], 1), "sines": np.concatenate([-sines, sines], 1)}
        padding = [(0, 0), (0, self._padded_head - self._head)]
        cosine, sine = (
            self.first_rows(
                self.constant(f"rotary.{kind}.{name}.all", np.pad(table, padding)),
                self._length,
                f"rotary.{kind}.{name}",
            )
            for name, table in tables.items()
        )
        return cosine, sine

    def _pre_norm_layer(self, number: int, hidden: str, *, cls_only: bool) -> str:
        """One encoder layer, [batch, sequence, hidden]; with `cls_only` its output is [batch, 1, hidden]."""
        name = f"layer.{number}"
        # The first layer has no LayerNorm before attention, because it reads the normalized embeddings.
        normed = self.norm(f"{name}.attention_norm", hidden) if number else hidden
        context = self._rotary_attention(number, normed, cls_only=cls_only)
        residual = self._first_of(hidden, f"{name}.cls", axis=1) if cls_only else hidden
        branch = self.linear(f"{name}.attention_output", context, heads_in=True)
        residual = self.add("Add", [residual, branch], f"{name}.attention_residual")
        wide = self._gated(name, self.norm(f"{name}.feed_forward_norm", residual))
        return self.add("Add", [residual, self.linear(f"{name}.output", wide)], f"{name}.output_residual")

    def _rotary_attention(self, number: int, normed: str, *, cls_only: bool) -> str:
        name, kind = f"layer.{number}", self._dimensions.layer_types[number]
        mask, rotary = self._masks[kind], self._rotary[kind]
        if not cls_only:
            parts = ("query", "key", "value")
            query, key, value = self._split(f"{name}.query_key_value", normed, parts, self._scale)
        else:
            cls = self._first_of(normed, f"{name}.normed_cls", axis=1)
            query = self.linear(f"{name}.query", cls, scales=(self._scale,), heads_out=True)
            key, value = self._split(f"{name}.key_value", normed, ("key", "value"))
            mask = self._first_of(mask, f"mask.{name}.cls", axis=2)
        query = self._heads(query, perm=[0, 2, 1, 3])
        if not cls_only:  # [CLS] is at position 0, where all angles are 0
            query = self._with_rotary(query, *rotary)
        key = self._with_rotary(self._heads(key, perm=[0, 2, 1, 3]), *rotary)
        key = self.add("Transpose", [key], f"{key}.transposed", perm=[0, 1, 3, 2])
        return self.attention(name, query, key, self._heads(value, perm=[0, 2, 1, 3]), mask)

    def _with_rotary(self, heads: str, cosines: str, sines: str) -> str:
        """Apply the rotary embedding: rotate each pair of channels (c, c + d/2) of [batch, heads, sequence, d] by its angle.

        The padding of a head stays 0.
        """
        start, half, end = (self.integers(f"half_heads_x_{n}", [n * self._head // 2]) for n in range(3))
        axis = self.integers("axis_3d", [3])
        first = self.add("Slice", [heads, start, half, axis], f"{heads}.first")
        second = self.add("Slice", [heads, half, end, axis], f"{heads}.second")
        parts = [second, first]
        if self._padded_head > self._head:
            padded = self.integers("padded_head", [self._padded_head])
            parts.append(self.add("Slice", [heads, end, padded, axis], f"{heads}.padding"))
        swapped = self.add("Concat", parts, f"{heads}.swapped", axis=3)
        along = self.add("Mul", [heads, cosines], f"{heads}.by_cosine")
        across = self.add("Mul", [swapped, sines], f"{heads}.by_sine")
        return self.add("Add", [along, across], f"{heads}.rotary")

    def _gated(self, layer: str, normed: str) -> str:
        """The first feed-forward layer: the activation of its first half, multiplied by its second half (the gate)."""
        wide = self.linear(f"{layer}.intermediate", normed)
        start, half, end = (self.integers(f"wide_x_{n}", [n * self._dimensions.intermediate]) for n in range(3))
        axis = self.integers("axis_2d", [2])
        value = self.add("Slice", [wide, start, half, axis], f"{layer}.intermediate.value")
        gate = self.add("Slice", [wide, half, end, axis], f"{layer}.intermediate.gate")
        activated = self.activation(self._dimensions.hidden_act, value, f"{layer}.activation.value")
        return self.add("Mul", [activated, gate], f"{layer}.activation")

    def _first_of(self, value: str, output: str, *, axis: int) -> str:
        bounds = [self.integers("zero", [0]), self.integers("one_int", [1]), self.integers(f"axis_{axis}d", [axis])]
        return self.add("Slice", [value, *bounds], output)
