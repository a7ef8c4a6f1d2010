"""A setting that config.json does not give has transformers' default."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from crossrt.export.checkpoint.dimensions import dimensions_of, pad_token_id_of
from crossrt.export.checkpoint.disentangled import Disentangled
from crossrt.export.checkpoint.heads import Head, Layout, layout_of
from crossrt.export.checkpoint.modernbert import FULL, modernbert_dimensions

FILE = Path("checkpoint")


def sizes_of(layout: Layout, default: Any) -> dict[str, int]:
    return {key: getattr(default, key) for key in layout.dimension_keys.values()}


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta", "distilbert", "deberta-v2", "mpnet", "albert"])
def test_epsilon_activation_and_padding(kind: str) -> None:
    default: Any = transformers.CONFIG_MAPPING[kind]()
    layout = layout_of(kind)
    assert layout is not None
    pad = pad_token_id_of(FILE, {}, layout)
    assert pad == default.pad_token_id
    tensors = {
        f"{layout.prefix}embeddings.word_embeddings.weight": torch.empty(9, 2),
        f"{layout.prefix}embeddings.position_embeddings.weight": torch.empty(64, 2),
        f"{layout.prefix}{layout.layer_prefix}99.weight": torch.empty(0),
    }
    found = dimensions_of(FILE, sizes_of(layout, default), layout, Head.BERT, tensors, pad)
    assert found.hidden_act == getattr(default, "hidden_act", getattr(default, "activation", None))
    assert found.norm_eps == getattr(default, "layer_norm_eps", 1e-12)  # DistilBERT has no setting for it


def test_disentangled_attention() -> None:
    default: Any = transformers.DebertaV2Config()
    found = Disentangled.read(FILE, {})
    assert found.relative is default.relative_attention
    assert found.absolute is default.position_biased_input
    assert found.positions == default.max_position_embeddings
    assert found.token_types is bool(default.type_vocab_size)
    # transformers reads these with defaults of its own where it computes.
    assert (found.shared, found.normed, found.buckets, found.c2p, found.p2c) == (False, False, 0, False, False)
    assert found.max_distance == found.positions, "max_relative_positions is -1"


def test_modernbert() -> None:
    default: Any = transformers.ModernBertConfig()
    layout = layout_of("modernbert")
    assert layout is not None
    sizes = sizes_of(layout, default) | {"max_position_embeddings": default.max_position_embeddings}
    tensors = {"model.embeddings.tok_embeddings.weight": torch.empty(9, 2), "model.layers.99.x": torch.empty(0)}
    found = modernbert_dimensions(FILE, sizes, layout, tensors)
    assert found.norm_eps == default.norm_eps
    assert found.hidden_act == default.hidden_activation
    assert found.head_act == default.classifier_activation
    assert found.pooling == default.classifier_pooling
    assert found.window == default.local_attention // 2
    biases = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")
    assert found.biased == {name for name in biases if getattr(default, name)}
    assert [kind == FULL for kind in found.layer_types] == [number % 3 == 0 for number in range(found.layers)]
    assert dict(found.thetas) == {"full_attention": 160_000, "sliding_attention": 10_000}
    if hasattr(default, "layer_types"):  # from transformers 5 on
        assert list(found.layer_types) == default.layer_types
        assert found.thetas == {kind: each["rope_theta"] for kind, each in default.rope_parameters.items()}
