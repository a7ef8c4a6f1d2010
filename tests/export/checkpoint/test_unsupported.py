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
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from crossrt.engine.errors import CheckpointError
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.unsupported import resembles_supported
from tests.export.checkpoint.test_odd_checkpoints import KINDS, _write

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
        r"Text Embeddings Inference \(/rerank\), vLLM.*GteForSequenceClassification",
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
        (*BERT, "bert.pooler.weight", "classifier.dense.weight", "classifier.out_proj.weight"),
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


KNOWN = "bert electra roberta xlm-roberta camembert distilbert deberta-v2 mpnet albert modernbert".split()
"""The model types that crossrt exports."""
SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_labels": 1,
    "max_position_embeddings": 64,
}
LIKE_KNOWN: dict[str, dict[str, Any]] = {
    "BigBird": {},
    "MegatronBert": {},
    "ModernBertDecoder": {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "XLMRobertaXL": {},
    "Xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
"""Classes with tensors of the names of BERT, ModernBERT and RoBERTa, which compute something else."""


def _saved(name: str, path: Path, **fields: Any) -> Path:
    """Write a small model of a class of transformers."""
    model_class = getattr(transformers, name)
    model_class(model_class.config_class(**SMALL | fields)).save_pretrained(path)
    return path


@pytest.mark.parametrize("left", [None, "model_type", "architectures"])
@pytest.mark.parametrize("kind", LIKE_KNOWN)
def test_a_class_of_transformers_that_crossrt_does_not_know_is_refused(
    kind: str, left: str | None, tmp_path: Path
) -> None:
    path = _saved(f"{kind}ForSequenceClassification", tmp_path, **LIKE_KNOWN[kind])
    fields = json.loads((path / "config.json").read_text())
    fields.pop(left, None)
    (path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r"architecture that crossrt does not know|head named score") as caught:
        Checkpoint.read(path)
    assert (fields.get("architectures") or [fields["model_type"]])[0] in str(caught.value)
    assert re.search(r"  instead   .*sentence-transformers \(CrossEncoder\)", str(caught.value))


def test_no_other_model_type_of_transformers_is_taken_for_a_known_one(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    for kind in transformers.CONFIG_MAPPING:
        assert resembles_supported(tmp_path, {"model_type": kind}, tensors) == (kind not in KNOWN), kind
    for kind, name in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.items():
        assert resembles_supported(tmp_path, {"architectures": [name]}, tensors) == (kind not in KNOWN), kind


def test_custom_code_of_an_unknown_model_type_is_read_by_its_tensors(checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    fields = json.loads((path / "config.json").read_text())
    own = {"model_type": "my-bert", "architectures": ["MyBertReranker"], "auto_map": {"AutoModel": "code.Model"}}
    (path / "config.json").write_text(json.dumps(fields | own))
    assert Checkpoint.read(path).layout.model_type == "bert"


@pytest.mark.parametrize(
    "name",
    [
        *(f"{kind}ForMultipleChoice" for kind in ("Bert", "DistilBert", "DebertaV2", "Albert", "ModernBert")),
        *("ModernBertForTokenClassification", "BertForTokenClassification", "RobertaForTokenClassification"),
    ],
)
def test_a_model_for_another_task_is_refused(name: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"embedding_size": 8} if name.startswith("Albert") else {}
    if name.startswith("ModernBert"):
        sizes = LIKE_KNOWN["ModernBertDecoder"]
    _saved(name, tmp_path, **sizes)
    with pytest.raises(CheckpointError, match=rf"a model for another task \({name}\)[\s\S]*  instead   transformers"):
        Checkpoint.read(tmp_path)


MODERNBERT = {"kind": "ModernBert", **LIKE_KNOWN["ModernBertDecoder"]}
LAST_TOKEN = {
    "modules.json": [
        {"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""},
        {"type": "sentence_transformers.base.modules.router.Router", "path": "1_Router"},
    ],
    "config_sentence_transformers.json": {"model_type": "CrossEncoder"},
}


@pytest.mark.parametrize(
    ("of", "files", "said"),
    [
        ({"kind": "Albert", "embedding_size": 8}, {"config.json": {"num_hidden_groups": 2}}, "num_hidden_groups is 2"),
        (KINDS["bert"], {"config.json": {"is_decoder": True}}, "is_decoder = true"),
        (KINDS["bert"], {"config.json": {"position_embedding_type": "relative_key"}}, "relative_key"),
        (KINDS["bert"], {"config.json": {"hidden_act": "silu"}}, "gelu, relu, gelu_new, gelu_pytorch_tanh are"),
        (KINDS["bert"], {"config.json": {"quantization_config": {"quant_method": "gptq"}}}, r"\(gptq\)"),
        (KINDS["bert"], {"config.json": {"num_hidden_layers": 3}}, "says 3 layers"),
        (MODERNBERT, {"config.json": {"rope_scaling": {"type": "yarn"}}}, "rope_scaling"),
        (KINDS["roberta"], {"config.json": {"num_labels": 3}}, "declares 3 labels"),
        (KINDS["bert"], LAST_TOKEN, "has the modules Transformer in '', Router"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_known_architecture_does_not_support_is_told_with_the_alternatives(
    of: dict[str, Any], files: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    _write(path, **of)
    for name, fields in files.items():
        held = json.loads((path / name).read_text()) | fields if (path / name).is_file() else fields
        (path / name).write_text(json.dumps(held))
    with pytest.raises(CheckpointError, match=said) as caught:
        Checkpoint.read(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert re.match(rf"  found     {of['kind']}ForSequenceClassification \(model_type '", lines[1])
    assert lines[2].startswith("  expected a cross-encoder with a classification head: BERT, ELECTRA")
    assert lines[3].startswith("  instead   sentence-transformers (CrossEncoder)")
