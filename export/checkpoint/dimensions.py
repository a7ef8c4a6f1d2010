"""`Dimensions`: the sizes of a cross-encoder's trunk."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.bundle.manifest import MAX_POSITIONS
from ...engine.errors import CheckpointError
from .disentangled import Disentangled
from .files import shown, whole_number
from .heads import Head, Layout

MPNET_BUCKETS = 32
"""The number of relative-position buckets that transformers' MPNet uses, whatever config.json says."""
ACTIVATIONS = ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh")
"""Supported activations of the feed-forward layers, by transformers' names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The trunk's sizes.

    `positions` is the length of the longest sequence in tokens. `norm_eps` is LayerNorm's epsilon. Only DeBERTa has
    `disentangled`. `pooling` says what the head reads: `[CLS]` (`cls`) or the mean of all tokens except padding (`mean`).
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int
    positions: int
    embedding: int
    norm_eps: float
    hidden_act: str
    disentangled: Disentangled | None = None
    pooling: str = "cls"

    @property
    def described(self) -> dict[str, Any]:
        """The entries of the manifest's `architecture` in addition to the sizes."""
        return {} if self.pooling == "cls" else {"pooling": self.pooling}


def dimensions_of(
    path: Path,
    config: Mapping[str, Any],
    layout: Layout,
    head: Head,
    tensors: Mapping[str, Any],
    pad_token_id: int,
) -> Dimensions:
    """Read the sizes from config.json and the weights.

    Raises CheckpointError if sizes are missing, contradict each other or are not supported.
    """
    file, embeddings = path / "config.json", f"{layout.prefix}embeddings."
    vocab, embedding = table_shape(path, tensors, f"{embeddings}word_embeddings.weight")
    disentangled = Disentangled.read(path, config) if layout.encoder == "deberta" else None
    if disentangled is None or disentangled.absolute:
        positions, _ = table_shape(path, tensors, f"{embeddings}position_embeddings.weight")
    else:  # as in sentence-transformers; relative positions have no limit
        positions = disentangled.positions
    numbered = re.compile(re.escape(layout.prefix + layout.layer_prefix) + r"(\d{1,6})\.")
    layers = max((int(found[1]) + 1 for found in map(numbered.match, tensors) if found), default=0)
    if head is Head.BERT_CAT and "dim" not in config:
        # Its config names distilbert-base-uncased instead of dimensions: 12 heads of 64 channels, GELU, epsilon 1e-12.
        if embedding != 768:
            raise CheckpointError(
                f"{path}: config.json gives no dimensions, and a width of {embedding} is not that of "
                "distilbert-base-uncased (768), so the number of attention heads is unknown; add n_heads, dim, "
                "n_layers and hidden_dim to config.json"
            )
        sizes = {"layers": layers, "hidden": 768, "heads": 12, "intermediate": 3072}
    else:
        missing = [key for key in layout.dimension_keys.values() if config.get(key) is None]
        if missing:
            raise CheckpointError(f"{file} does not give {', '.join(missing)}; it cannot be guessed from weights")
        sizes = {ours: whole_number(file, config, theirs, minimum=1) for ours, theirs in layout.dimension_keys.items()}
    if layout.encoder == "mpnet" and config.get("relative_attention_num_buckets") not in (None, MPNET_BUCKETS):
        raise CheckpointError(
            f"{file}: relative_attention_num_buckets is {shown(config['relative_attention_num_buckets'])}; only "
            f"{MPNET_BUCKETS} is supported, which transformers computes with whatever is said there"
        )
    if layout.shared_layers:
        _check_one_group(file, config)
        layers = sizes["layers"]
    if not 1 <= sizes["layers"] <= layers:
        raise CheckpointError(f"{path}: config.json says {sizes['layers']} layers, and the weights have {layers}")
    if sizes["hidden"] % sizes["heads"]:
        raise CheckpointError(f"{path}: hidden size {sizes['hidden']} is not a multiple of {sizes['heads']} heads")
    default = "gelu_new" if layout.model_type == "albert" else "gelu"  # transformers' defaults, also for epsilon
    activation = config.get("activation" if layout.model_type == "distilbert" else "hidden_act", default)
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{path}: the hidden activation {shown(activation)} is not supported; {', '.join(ACTIVATIONS)} are"
        )
    if layout.positions_pass_over_padding:
        positions -= pad_token_id + 1
    if positions < 1:
        raise CheckpointError(f"{path}: no position embeddings are left after those up to pad_token_id {pad_token_id}")
    if positions > MAX_POSITIONS:
        raise CheckpointError(f"{path}: the model has {positions} positions; at most {MAX_POSITIONS} are supported")
    epsilon = epsilon_of(file, config, "layer_norm_eps", default=1e-7 if layout.encoder == "deberta" else 1e-12)
    return Dimensions(
        **sizes,
        vocab=vocab,
        positions=positions,
        embedding=embedding,
        norm_eps=1e-12 if layout.model_type == "distilbert" else epsilon,  # DistilBERT has no setting for it
        hidden_act=activation,
        disentangled=disentangled,
        pooling="cls",
    )


def _check_one_group(file: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for an ALBERT that has more than one distinct layer. All of Google's have one."""
    for key in ("num_hidden_groups", "inner_group_num"):
        if whole_number(file, config, key, minimum=0, default=1) != 1:
            raise CheckpointError(f"{file}: {key} is {config[key]}; crossrt knows ALBERT with one layer for all, so 1")


def epsilon_of(file: Path, config: Mapping[str, Any], key: str, *, default: float) -> float:
    """Return LayerNorm's epsilon. Raises CheckpointError if it is not a number from 0 up to but not including 1."""
    epsilon = config.get(key, default)
    if not isinstance(epsilon, (int, float)) or isinstance(epsilon, bool) or not 0 <= epsilon < 1:
        raise CheckpointError(
            f"{file}: {key} is {shown(epsilon)}; a number from 0 to 1, such as {default:g}, is expected"
        )
    return float(epsilon)


def pad_token_id_of(path: Path, config: Mapping[str, Any], layout: Layout) -> int:
    """Return the id of the padding token.

    RoBERTa counts positions from it. MPNet counts from 1, whatever config.json says. For other models any id works, because
    padding is masked.
    """
    if layout.encoder == "mpnet":
        return 1
    if layout.positions_pass_over_padding:
        return whole_number(path / "config.json", config, "pad_token_id", minimum=0, default=1)
    return max(0, whole_number(path / "config.json", config, "pad_token_id", minimum=-(2**31), default=0))


def table_shape(path: Path, tensors: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Return rows and width of an embedding table. Raises CheckpointError if it is missing, empty or not two-dimensional."""
    if name not in tensors:
        raise CheckpointError(f"{path}: the tensor {name!r} is missing")
    shape = tuple(tensors[name].shape)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{path}: {name} is {list(shape)}, expected a table of rows and columns")
    return shape
