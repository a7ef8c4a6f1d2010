"""Heads and trunks. What a checkpoint is follows from its tensors, never from its name.

A cross-encoder consists of an encoder (the trunk) and a `Head` that converts `[CLS]`, or the mean of all tokens, to logits. Most
supported trunks are post-LayerNorm encoders under different tensor names, so a `Layout` is mainly a table of names. Other
differences, such as relative positions, are fields of the layout. ModernBERT has its own graph.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Literal


class Head(str, Enum):
    """What converts `[CLS]` or the mean to logits. The value is the name in the manifest."""

    BERT = "bert"  # pooler: dense, tanh; classifier
    ELECTRA = "electra"  # dense, GELU, out_proj
    ELECTRA_PLAIN = "electra-plain"  # only out_proj, on an ELECTRA trunk (Capreolus)
    ROBERTA = "roberta"  # dense, tanh, out_proj
    DISTILBERT = "distilbert"  # pre_classifier, ReLU, classifier
    BERT_CAT = "bert-cat"  # one linear layer on a DistilBERT trunk, own class (Hofstätter et al. 2020)
    DEBERTA = "deberta"  # pooler: dense, GELU; classifier
    ALBERT = "albert"  # pooler: one linear layer, tanh; classifier
    # Dense modules of sentence-transformers on a bare trunk: one linear layer, or two with an activation in between.
    DENSE = "dense"
    DENSE_TANH = "dense-tanh"
    DENSE_GELU = "dense-gelu"
    DENSE_RELU = "dense-relu"
    # The same with LayerNorm after the activation.
    DENSE_TANH_NORM = "dense-tanh-norm"
    DENSE_GELU_NORM = "dense-gelu-norm"
    DENSE_RELU_NORM = "dense-relu-norm"
    MODERNBERT = "modernbert"  # dense, activation, LayerNorm, classifier, on [CLS] or on the mean of all tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLayers:
    """The linear layers of a head, first to last, by their names in the checkpoint.

    Between them are the activation and, if `norm` names one, LayerNorm.
    """

    linears: tuple[str, ...]
    activation: str | None
    norm: str | None = None


HEAD_LAYERS: Mapping[Head, HeadLayers] = MappingProxyType(
    {
        Head.BERT: HeadLayers(linears=("bert.pooler.dense", "classifier"), activation="tanh"),
        Head.ELECTRA: HeadLayers(linears=("classifier.dense", "classifier.out_proj"), activation="gelu"),
        Head.ELECTRA_PLAIN: HeadLayers(linears=("classifier.out_proj",), activation=None),
        Head.ROBERTA: HeadLayers(linears=("classifier.dense", "classifier.out_proj"), activation="tanh"),
        Head.DISTILBERT: HeadLayers(linears=("pre_classifier", "classifier"), activation="relu"),
        Head.BERT_CAT: HeadLayers(linears=("_classification_layer",), activation=None),
        Head.DEBERTA: HeadLayers(linears=("pooler.dense", "classifier"), activation="gelu"),
        Head.ALBERT: HeadLayers(linears=("albert.pooler", "classifier"), activation="tanh"),
        Head.DENSE: HeadLayers(linears=("dense.0",), activation=None),
        Head.DENSE_TANH: HeadLayers(linears=("dense.0", "dense.1"), activation="tanh"),
        Head.DENSE_GELU: HeadLayers(linears=("dense.0", "dense.1"), activation="gelu"),
        Head.DENSE_RELU: HeadLayers(linears=("dense.0", "dense.1"), activation="relu"),
        Head.DENSE_TANH_NORM: HeadLayers(linears=("dense.0", "dense.1"), activation="tanh", norm="dense.norm"),
        Head.DENSE_GELU_NORM: HeadLayers(linears=("dense.0", "dense.1"), activation="gelu", norm="dense.norm"),
        Head.DENSE_RELU_NORM: HeadLayers(linears=("dense.0", "dense.1"), activation="relu", norm="dense.norm"),
        # The activation is the default; config.json may name another (`ModernBertDimensions.head_act`).
        Head.MODERNBERT: HeadLayers(linears=("head.dense", "classifier"), activation="gelu", norm="head.norm"),
    }
)
DENSE_NORM_EPSILON = 1e-5
"""The epsilon of sentence-transformers' LayerNorm module, which is PyTorch's default."""
DENSE_HEADS = tuple(head for head in Head if head.value.startswith("dense"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The tensor names of a family of checkpoints, and how its trunk computes.

    - `layer_parts`: crossrt's name of each part of a layer, mapped to the checkpoint's name below `layer_prefix` + layer number.
    - `dimension_keys`: crossrt's name of each dimension, mapped to the key in config.json.
    - `fused_parts`: parts that are stored concatenated in one tensor, each with its index and the number of parts.
    - `projection`: the layer that projects narrower embeddings to the hidden size, for trunks that may have one.
    - `encoder`: how the trunk computes: like BERT, with DeBERTa's disentangled attention, with MPNet's relative-position bias, or
      like ModernBERT, whose first feed-forward layer has twice the outputs (the activation's inputs, then the gates).
    - `shared_layers`: whether all layers have the weights of layer 0.
    - `positions_pass_over_padding`: see `Checkpoint`.
    """

    prefix: str
    model_type: str
    layer_prefix: str
    layer_parts: Mapping[str, str]
    dimension_keys: Mapping[str, str]
    token_types: bool
    fused_parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    projection: str | None = None
    encoder: Literal["bert", "deberta", "mpnet", "modernbert"] = "bert"
    shared_layers: bool = False
    positions_pass_over_padding: bool = False


_BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_DISTILBERT_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "intermediate": "ffn.lin1",
    "output": "ffn.lin2",
    "output_norm": "output_layer_norm",
}
_DEBERTA_LAYER = _BERT_LAYER | {
    "query": "attention.self.query_proj",
    "key": "attention.self.key_proj",
    "value": "attention.self.value_proj",
}
_MPNET_LAYER = _BERT_LAYER | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "attention_output": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}
_ALBERT_LAYER = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "attention_output": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "intermediate": "ffn",
    "output": "ffn_output",
    "output_norm": "full_layer_layer_norm",
}
_MODERNBERT_LAYER = {
    "attention_norm": "attn_norm",
    "query": "attn.Wqkv",
    "key": "attn.Wqkv",
    "value": "attn.Wqkv",
    "attention_output": "attn.Wo",
    "feed_forward_norm": "mlp_norm",
    "intermediate": "mlp.Wi",
    "output": "mlp.Wo",
}
_BERT_DIMENSIONS = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
}
_DISTILBERT_DIMENSIONS = {"hidden": "dim", "layers": "n_layers", "heads": "n_heads", "intermediate": "hidden_dim"}


def _bert_like(prefix: str) -> Layout:
    return Layout(
        prefix=f"{prefix}.",
        model_type=prefix,
        layer_prefix="encoder.layer.",
        layer_parts=_BERT_LAYER,
        dimension_keys=_BERT_DIMENSIONS,
        token_types=True,
        projection="embeddings_project" if prefix == "electra" else None,
        positions_pass_over_padding=prefix == "roberta",
    )


_DEBERTA = Layout(
    prefix="deberta.",
    model_type="deberta-v2",
    layer_prefix="encoder.layer.",
    layer_parts=_DEBERTA_LAYER,
    dimension_keys=_BERT_DIMENSIONS,
    token_types=True,
    projection="embeddings.embed_proj",
    encoder="deberta",
)
_MPNET = Layout(
    prefix="mpnet.",
    model_type="mpnet",
    layer_prefix="encoder.layer.",
    layer_parts=_MPNET_LAYER,
    dimension_keys=_BERT_DIMENSIONS,
    token_types=False,
    encoder="mpnet",
    positions_pass_over_padding=True,
)
_ALBERT = Layout(
    prefix="albert.",
    model_type="albert",
    layer_prefix="encoder.albert_layer_groups.0.albert_layers.",
    layer_parts=_ALBERT_LAYER,
    dimension_keys=_BERT_DIMENSIONS,
    token_types=True,
    projection="encoder.embedding_hidden_mapping_in",
    shared_layers=True,
)
_MODERNBERT = Layout(
    prefix="model.",
    model_type="modernbert",
    layer_prefix="layers.",
    layer_parts=_MODERNBERT_LAYER,
    dimension_keys=_BERT_DIMENSIONS,
    token_types=False,
    fused_parts={"query": (0, 3), "key": (1, 3), "value": (2, 3)},
    encoder="modernbert",
)


def _distilbert(prefix: str) -> Layout:
    return Layout(
        prefix=f"{prefix}.",
        model_type="distilbert",
        layer_prefix="transformer.layer.",
        layer_parts=_DISTILBERT_LAYER,
        dimension_keys=_DISTILBERT_DIMENSIONS,
        token_types=False,
    )


def layout_of(model_type: object) -> Layout | None:
    """Return the layout of an encoder with this model_type; None for an unknown one."""
    if model_type in ("bert", "electra"):
        return _bert_like(str(model_type))
    if model_type in ("roberta", "xlm-roberta", "camembert"):
        return _bert_like("roberta")
    others = {"distilbert": _distilbert("distilbert"), "deberta-v2": _DEBERTA, "mpnet": _MPNET, "albert": _ALBERT}
    return (others | {"modernbert": _MODERNBERT}).get(str(model_type))


def head_of(tensors: Collection[str]) -> tuple[Layout, Head] | None:
    """Return the trunk's layout and the head, derived from the tensor names; None for an unknown kind of model."""
    if "bert.embeddings.word_embeddings.weight" in tensors and "classifier.weight" in tensors:
        return _bert_like("bert"), Head.BERT
    if "electra.embeddings.word_embeddings.weight" in tensors and "classifier.out_proj.weight" in tensors:
        dense = any(name.startswith("classifier.dense.") for name in tensors)
        return _bert_like("electra"), Head.ELECTRA if dense else Head.ELECTRA_PLAIN
    if "roberta.embeddings.word_embeddings.weight" in tensors and "classifier.out_proj.weight" in tensors:
        return _bert_like("roberta"), Head.ROBERTA
    if "distilbert.embeddings.word_embeddings.weight" in tensors and "classifier.weight" in tensors:
        return _distilbert("distilbert"), Head.DISTILBERT
    if "bert_model.embeddings.word_embeddings.weight" in tensors and "_classification_layer.weight" in tensors:
        return _distilbert("bert_model"), Head.BERT_CAT
    if "deberta.encoder.layer.0.attention.self.query_proj.weight" in tensors and "classifier.weight" in tensors:
        return _DEBERTA, Head.DEBERTA
    if "mpnet.embeddings.word_embeddings.weight" in tensors and "classifier.out_proj.weight" in tensors:
        return _MPNET, Head.ROBERTA
    if "albert.embeddings.word_embeddings.weight" in tensors and "classifier.weight" in tensors:
        return _ALBERT, Head.ALBERT
    if "model.embeddings.tok_embeddings.weight" in tensors and "classifier.weight" in tensors:
        return _MODERNBERT, Head.MODERNBERT
    return None
