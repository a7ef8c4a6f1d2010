"""What is no cross-encoder of a known architecture is named, with what serves it.

The fields are those of the published config.json that tell what a checkpoint is. Those of Qwen3, monoT5, SPLADE, MiniLM and
BigBird are of transformers' classes; the others were read on the hub in November 2026, in the repository that is named or, where
the name says so, in a copy. The names of tensors are those of the publishers' classes.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file

from crossrt.engine.errors import CheckpointError
from crossrt.export.checkpoint.checkpoint import Checkpoint

QWEN3 = {"model_type": "qwen3", "hidden_act": "silu", "rope_theta": 1000000, "rms_norm_eps": 1e-6}
DECODER = ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight")
GEMMA = {
    "model_type": "gemma",
    "hidden_act": "gelu",
    "hidden_activation": "gelu_pytorch_tanh",
    "num_key_value_heads": 1,
}
JINA_V1 = {
    "_name_or_path": "jinaai/jina-bert-implementation",
    "architectures": ["JinaBertModel"],
    "auto_map": {
        "AutoConfig": "configuration_bert.JinaBertConfig",
        "AutoModelForSequenceClassification": "modeling_bert.JinaBertForSequenceClassification",
    },
    "emb_pooler": "mean",
    "feed_forward_type": "geglu",
    "hidden_act": "gelu",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 4,
    "position_embedding_type": "alibi",
    "type_vocab_size": 2,
    "vocab_size": 61056,
}
JINA_V2 = {
    "architectures": ["XLMRobertaForSequenceClassification"],
    "auto_map": {
        "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
        "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
    },
    "hidden_act": "gelu",
    "hidden_size": 768,
    "num_labels": 1,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 1026,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "position_embedding_type": "absolute",
    "type_vocab_size": 1,
    "use_flash_attn": True,
    "vocab_size": 250002,
}
GTE = {
    "architectures": ["NewForSequenceClassification"],
    "auto_map": {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig"},
    "hidden_act": "gelu",
    "model_type": "new",
    "pack_qkv": True,
    "position_embedding_type": "rope",
}
COLBERT = {
    "architectures": ["HF_ColBERT"],
    "model_type": "bert",
    "hidden_size": 768,
    "position_embedding_type": "absolute",
}
BERT = ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight")

TABLE: list[tuple[str, dict[str, Any], tuple[str, ...], str, str]] = [
    (
        "tomaarsen/Qwen3-Reranker-0.6B-seq-cls",
        {"architectures": ["Qwen3ForSequenceClassification"], **QWEN3},
        (*DECODER, "score.weight"),
        r"head named score .*Qwen, Llama and Gemma; crossrt exports encoders",
        r"vLLM .*sentence-transformers \(CrossEncoder\)",
    ),
    (
        "Qwen/Qwen3-Reranker-0.6B",
        {"architectures": ["Qwen3ForCausalLM"], **QWEN3},
        DECODER,
        "generative model, which scores by the word",
        "vLLM .*LogitScore.*SGLang",
    ),
    (
        "BAAI/bge-reranker-v2-gemma, in a copy by bespin-global",
        {"architectures": ["GemmaForCausalLM"], **GEMMA},
        DECODER,
        "generative model, which scores by the word",
        "vLLM",
    ),
    (
        "BAAI/bge-reranker-v2-minicpm-layerwise",
        {"architectures": ["LayerWiseMiniCPMForCausalLM"], "model_type": "minicpm", "auto_map": {"AutoConfig": "x.X"}},
        (*DECODER, "lm_head.0.linear_head.weight"),
        "generative model whose layers each score",
        "FlagEmbedding",
    ),
    (
        "jinaai/jina-reranker-v3",
        {"architectures": ["JinaForRanking"], "auto_map": {"AutoModel": "modeling.JinaForRanking"}, **QWEN3},
        (*DECODER, "projector.0.weight"),
        "scores a whole list of passages at once",
        "trust_remote_code=True",
    ),
    (
        "jinaai/jina-reranker-v2-base-multilingual",
        JINA_V2,
        (
            "roberta.embeddings.word_embeddings.weight",
            "roberta.embeddings.position_embeddings.weight",
            "roberta.encoder.layers.0.mixer.Wqkv.weight",
            "classifier.dense.weight",
            "classifier.out_proj.weight",
        ),
        r"layers of code of its publisher \(mixer\.Wqkv\)",
        "trust_remote_code=True.*--onnx-file",
    ),
    (
        "jinaai/jina-reranker-v1-tiny-en",
        JINA_V1,
        (*BERT, "bert.encoder.layer.0.mlp.gated_layers.weight", "bert.pooler.dense.weight", "classifier.weight"),
        "JinaBERT: its attention has ALiBi biases",
        "trust_remote_code=True.*--onnx-file",
    ),
    (
        "Alibaba-NLP/gte-multilingual-reranker-base; its fields are those of a model tuned from gte-multilingual-base",
        GTE,
        ("new.embeddings.word_embeddings.weight", "new.encoder.layer.0.attention.qkv_proj.weight", "classifier.weight"),
        "GTE encoder with rotary positions",
        r"Text Embeddings Inference \(/rerank\), vLLM",
    ),
    (
        "castorini/monot5-base-msmarco",
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
        ("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"),
        "with an encoder and a decoder, as monoT5",
        "rerankers",
    ),
    (
        "colbert-ir/colbertv2.0",
        COLBERT,
        (*BERT, "bert.pooler.dense.weight", "linear.weight"),
        "ColBERT: it has a vector for each token",
        "PyLate",
    ),
    (
        "naver/splade-cocondenser-ensembledistil",
        {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
        (*BERT, "cls.predictions.decoder.weight"),
        "masked language model: SPLADE",
        "SparseEncoder",
    ),
    (
        "sentence-transformers/all-MiniLM-L6-v2",
        {"architectures": ["BertModel"], "model_type": "bert"},
        ("embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight"),
        "bi-encoder or a bare trunk",
        r"SentenceTransformer\), Text Embeddings Inference",
    ),
    (
        "google/bigbird-roberta-base, fine-tuned",
        {"architectures": ["BigBirdForSequenceClassification"], "model_type": "big_bird"},
        ("bert.encoder.layer.0.attention.self.query.weight", "classifier.dense.weight"),
        "of an architecture that crossrt does not know",
        "CrossEncoder.*--onnx-file",
    ),
]


@pytest.mark.parametrize(("name", "config", "tensors", "kind", "served"), TABLE, ids=[row[0] for row in TABLE])
def test_a_checkpoint_that_is_not_supported_is_named_with_what_serves_it(
    name: str, config: dict[str, Any], tensors: tuple[str, ...], kind: str, served: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({one: torch.ones(2, 2) for one in tensors}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=kind) as caught:
        Checkpoint.read(tmp_path)
    said = str(caught.value)
    assert config["architectures"][0] in said
    assert "expected a cross-encoder" in said
    assert ("never runs" in said) == ("auto_map" in config)
    assert re.search(f"  instead   .*{served}", said), said


def test_tensors_of_a_known_architecture_do_not_hide_alibi(checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    fields = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(fields | {"position_embedding_type": "alibi"}))
    with pytest.raises(CheckpointError, match="is a JinaBERT"):
        Checkpoint.read(path)


def test_custom_code_of_a_known_architecture_is_a_warning(checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    fields = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(fields | {"auto_map": {"AutoModel": "code.Model"}}))
    (path / "code.py").write_text("raise SystemExit")
    warnings = Checkpoint.read(path).warnings
    assert [one for one in warnings if "auto_map" in one and "never runs" in one] == list(warnings)


def test_a_prefix_of_some_tensors_alone_is_named(checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    held = {f"module.{name}": value for name, value in load_file(path / "model.safetensors").items()}
    save_file(held | {"step": torch.ones(1)}, path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"some names that begin with the module\."):
        Checkpoint.read(path)
