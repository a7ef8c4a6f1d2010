"""`DisentangledAttention`: the relative-position terms of DeBERTa's attention scores, as a part of its graph.

The c2p term multiplies the content of each query with the relative position of each key. The p2c term multiplies the content of
each key with the relative position of each query (He et al. 2020, arXiv:2006.03654). The distance of query i and key j selects a
row of a table that is computed at export.

transformers computes the scores with all 2 * span rows and then gathers them by an index [batch, heads, queries, keys]. Here the
row of each distance is gathered before the product, [heads, 2 * tokens, head]. The products are then moved into place by
reshaping, as in Huang et al. 2018, arXiv:1809.04281. With 12 heads of 64 channels and 512 rows, on two cores, the terms of four
layers take this many ms, first in transformers' order and then in this one:

- one pair of 40 tokens: ONNX Runtime 7.3 and 0.7, OpenVINO 2.5 and 0.6
- 16 pairs of 100 tokens: ONNX Runtime 220 and 127, OpenVINO 67 and 33
- 8 pairs of 256 tokens: ONNX Runtime 374 and 432, OpenVINO 128 and 147
"""

import numpy as np
import numpy.typing as npt

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.disentangled import Disentangled
from .typed_graph import TypedGraph


class DisentangledAttention:
    """Adds the terms to the attention scores of each layer. Nodes that depend only on the number of tokens are shared."""

    def __init__(self, graph: TypedGraph, checkpoint: Checkpoint, settings: Disentangled, padded_head: int) -> None:
        self._graph = graph
        self._checkpoint = checkpoint
        self._settings = settings
        self._padded_head = padded_head
        self._embeddings = self._relative_embeddings() if settings.relative else None

    def add_positions(self, length: str) -> None:
        """Add the nodes that all layers share: the table row of each distance, from the number of tokens `length`, int64 [1]."""
        if not self._settings.relative:
            return
        graph, rows = self._graph, self._settings.rows
        most = self._checkpoint.dimensions.positions
        zero = graph.integers("zero", [0])
        first = graph.add("Sub", [graph.integers("positions.most", [most]), length], "positions.first_distance")
        end = graph.add("Add", ["positions.most", length], "positions.last_distance")
        # Distance = query position - key position. It falls along the keys of a query and rises along the queries of a key.
        rising = np.arange(1 - most, most + 1)
        for name, distances in (("falling", -rising), ("rising", rising)):
            all_rows = graph.integers(f"positions.{name}_rows", rows(distances))
            graph.add("Slice", [all_rows, first, end, zero], f"positions.{name}")
        # The distances from [CLS] to each key.
        all_rows = graph.integers("positions.cls_rows", rows(-np.arange(most)))
        graph.add("Slice", [all_rows, zero, length, zero], "positions.cls")
        graph.add("Sub", [length, graph.integers("one_int", [1])], "positions.skip")
        kept, rest = graph.integers("kept_axes", [0, 0]), graph.integers("rest", [-1])
        graph.add("Concat", [kept, length, rest], "positions.skewed_shape", axis=0)

    def add_terms(self, layer: str, content: str, query: str, key: str, output: str, *, cls_alone: bool) -> str:
        """Add `layer`'s terms to the scores `content` [batch, heads, queries, keys], as `output` of the same shape.

        `query` is [batch, heads, queries, head], already multiplied by the attention scale. `key` is [batch, heads, keys, head].
        With `cls_alone` the only query is `[CLS]`.
        """
        settings, graph = self._settings, self._graph
        terms = []
        if settings.relative and settings.c2p:
            table = self._table(layer, "key", 1.0)
            terms.append(self._c2p(f"{layer}.attention_c2p", query, table, cls_alone=cls_alone))
        if settings.relative and settings.p2c:
            table = self._table(layer, "query", 1 / (np.sqrt(self._head) * settings.scale))
            terms.append(self._p2c(f"{layer}.attention_p2c", key, table, cls_alone=cls_alone))
        total = content
        for number, term in enumerate(terms, 1):
            name = output if number == len(terms) else f"{layer}.attention_content_position"
            total = graph.add("Add", [total, term], name)
        return total

    @property
    def has_terms(self) -> bool:
        """Whether the scores have a relative-position term."""
        return self._settings.relative and (self._settings.c2p or self._settings.p2c)

    @property
    def _head(self) -> int:
        return self._checkpoint.dimensions.hidden // self._checkpoint.dimensions.heads

    def _c2p(self, name: str, query: str, table: str, *, cls_alone: bool) -> str:
        """Content-to-position scores (queries with the positions of keys), [batch, heads, queries, keys]."""
        graph = self._graph
        distances = "positions.cls" if cls_alone else "positions.falling"
        rows = graph.add("Gather", [table, distances], f"{name}.rows", axis=1)
        rows = graph.add("Transpose", [rows], f"{name}.columns", perm=[0, 2, 1])
        if cls_alone:
            return graph.add("MatMul", [query, rows], name)
        return self._in_place(graph.add("MatMul", [query, rows], f"{name}.distances"), name)

    def _p2c(self, name: str, key: str, table: str, *, cls_alone: bool) -> str:
        """Position-to-content scores (keys with the positions of queries), [batch, heads, queries, keys]."""
        graph = self._graph
        distances = "positions.cls" if cls_alone else "positions.rising"
        rows = graph.add("Gather", [table, distances], f"{name}.rows", axis=1)
        if cls_alone:  # each key is multiplied with one row
            product = graph.add("Mul", [key, rows], f"{name}.products")
            summed = graph.add("ReduceSum", [product, graph.integers("axis_last", [-1])], f"{name}.sums", keepdims=0)
            return graph.add("Unsqueeze", [summed, graph.integers("axis_2d", [2])], name)
        rows = graph.add("Transpose", [rows], f"{name}.columns", perm=[0, 2, 1])
        by_key = self._in_place(graph.add("MatMul", [key, rows], f"{name}.distances"), f"{name}.by_key")
        return graph.add("Transpose", [by_key], name, perm=[0, 1, 3, 2])

    def _in_place(self, scores: str, name: str) -> str:
        """Convert scores by distance, [batch, heads, n, 2n], to scores by token, [batch, heads, n, n].

        The n wanted scores of row i begin at column n - 1 - i. In the flattened matrix of n * 2n numbers, they begin at n - 1 for
        row 0, and 2n - 1 numbers later for each further row. So the flattened matrix is cut off before n - 1 and reshaped to rows
        of 2n - 1 numbers, whose first n are the wanted ones.
        """
        graph = self._graph
        line = graph.add("Reshape", [scores, graph.integers("in_one_line", [0, 0, -1])], f"{name}.line")
        rest, axis = graph.integers("rest", [-1]), graph.integers("axis_2d", [2])
        line = graph.add("Slice", [line, "positions.skip", rest, axis], f"{name}.from_first")
        skewed = graph.add("Reshape", [line, "positions.skewed_shape"], f"{name}.skewed")
        zero, axis = graph.integers("zero", [0]), graph.integers("axis_3d", [3])
        return graph.add("Slice", [skewed, zero, "positions.length", axis], name)

    def _table(self, layer: str, part: str, scale: float) -> str:
        """The projected relative-position embeddings, [heads, 2 * span, head], computed in FP64 and rounded to FP32 once."""
        assert self._embeddings is not None
        name = f"{layer}.{part}" if self._settings.shared else f"{layer}.position_{part}"
        weight, bias = (self._checkpoint.tensor(f"{name}.{kind}").astype(np.float64) for kind in ("weight", "bias"))
        projected = (self._embeddings @ weight.T + bias) * scale
        heads = projected.reshape(len(projected), -1, self._head).swapaxes(0, 1)
        padded = np.pad(heads, [(0, 0), (0, 0), (0, self._padded_head - self._head)])
        return self._graph.constant(f"{layer}.position_{part}.table", padded.astype(np.float32))

    def _relative_embeddings(self) -> npt.NDArray[np.float64]:
        """Return the relative-position embeddings, float64 [2 * span, hidden], after LayerNorm if the model normalizes them."""
        values = self._checkpoint.tensor("relative.weight").astype(np.float64)
        if not self._settings.normed:
            return values
        centered = values - values.mean(axis=1, keepdims=True)
        deviation = np.sqrt(np.square(centered).mean(axis=1, keepdims=True) + self._checkpoint.dimensions.norm_eps)
        weight, bias = (self._checkpoint.tensor(f"relative_norm.{kind}") for kind in ("weight", "bias"))
        normed: npt.NDArray[np.float64] = centered / deviation * weight + bias
        return normed
