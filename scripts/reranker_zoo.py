"""Rerankers of 2024 to 2026 with their published architectures, and a function that writes them with seeded random weights.

The config.json of each was read at `source`. What could not be read is left out, or a comment says so.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from zoo_words import WORDS, vocabulary

SPECIAL = {
    # The special tokens in the order of their ids, which are those of the published tokenizers if these are small.
    "DebertaV2": ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"),
    "Electra": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "Albert": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
    "MPNet": ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"),
    "XLMRoberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "Roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "ModernBert": ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"),
}

DOUBLE = ("MPNet", "XLMRoberta", "Roberta")
"""Kinds whose template has two end tokens between query and passage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranker:
    """One published checkpoint.

    `kind` is its class in transformers without `ForSequenceClassification`. `shape` is the number of layers, the width, the
    number of heads and the inner width, and `config` has the other fields of config.json. With `modules` the head is
    sentence-transformers' modules Pooling, Dense, LayerNorm and Dense. `activation` is the class that the files name; without it,
    one label has a sigmoid. `dtype` is float32 if no source names one. No source names a prompt.
    """

    name: str
    kind: str
    shape: tuple[int, int, int, int]
    vocab: int
    max_length: int
    source: str
    dtype: str = "float32"
    labels: int = 1
    modules: bool = False
    activation: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name of the model's directory."""
        return self.name.replace("/", "__")


DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "max_relative_positions": -1,
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": 512,
    "pooler_dropout": 0,
    "pooler_hidden_act": "gelu",
}
MODERNBERT = {
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "norm_eps": 1e-5,
    "classifier_activation": "gelu",
    "classifier_pooling": "mean",
}
IDENTITY = "torch.nn.modules.linear.Identity"


def _mxbai(size: str, shape: tuple[int, int, int, int], source: str) -> Reranker:
    return Reranker(
        name=f"mixedbread-ai/mxbai-rerank-{size}-v1",
        kind="DebertaV2",
        shape=shape,
        vocab=128_100,
        max_length=512,  # mixedbread.ai/docs: the recommended length; model_max_length was not read
        dtype="float16",
        config=DEBERTA_V3 | {"pooler_hidden_size": shape[1]},
        source=source,
    )


def _xlm_roberta(
    name: str, shape: tuple[int, int, int, int], source: str, *, max_length: int = 512, activation: str | None = None
) -> Reranker:
    return Reranker(
        name=name,
        kind="XLMRoberta",
        shape=shape,
        vocab=250_002,
        max_length=max_length,
        activation=activation,
        config={"max_position_embeddings": max_length + 2, "layer_norm_eps": 1e-5, "type_vocab_size": 1},
        source=source,
    )


def _ettin(size: str, folder: str, shape: tuple[int, int, int, int]) -> Reranker:
    return Reranker(
        name=f"cross-encoder/ettin-reranker-{size}-v1",
        kind="ModernBert",
        shape=shape,
        vocab=50_368,
        max_length=7999,  # huggingface.co/cross-encoder/ettin-reranker-150m-v1, the model card
        modules=True,
        activation=IDENTITY,
        config=MODERNBERT | {"max_position_embeddings": 7999, "position_embedding_type": "sans_pos"},
        source=f"JHU-CLSP/ettin-encoder-vs-decoder@496a3f42, pretraining/configs/standard/{folder} (shape); "
        "huggingface/blog@3e4560d0, ettin-reranker.md (modules, activation); its own config.json was not read",
    )


RERANKERS: tuple[Reranker, ...] = (
    _mxbai(
        "large", (24, 1024, 16, 4096), "huggingface.co/mixedbread-ai/mxbai-rerank-large-v1, config.json at 9b095c02"
    ),
    _mxbai(
        "base",
        (12, 768, 12, 3072),
        "the shape of microsoft/deberta-v3-base, config.json at e339e9c9; 369 MB at 3ee5f37c",
    ),
    _mxbai("xsmall", (12, 384, 6, 1536), "the shape of microsoft/deberta-v3-xsmall; its own config.json was not read"),
    Reranker(
        name="hle2000/mpnet_subgraphs_reraking_t5xl",
        kind="MPNet",
        shape=(12, 768, 12, 3072),
        vocab=30_527,
        max_length=512,
        config={"max_position_embeddings": 514, "layer_norm_eps": 1e-5},
        source="huggingface.co/hle2000/mpnet_subgraphs_reraking_t5xl, config.json at 2045da3c",
    ),
    Reranker(
        name="nishantyadav/emb_crossenc_msmarco_teacher_1_albert",
        kind="Albert",
        shape=(12, 768, 12, 3072),
        vocab=30_000,
        max_length=512,
        config={"max_position_embeddings": 512, "embedding_size": 128},
        source="the shape of albert-base-v2, as in huggingface.co/textattack/albert-base-v2-RTE; its own was not read",
    ),
    _xlm_roberta(
        "cross-encoder/mmarco-mMiniLMv2-L12-H384-v1",
        (12, 384, 12, 1536),
        "huggingface.co/adriansanz/sitges10242608-4ep-rerank, config.json at bc6a4f3f, a copy of it",
        activation=IDENTITY,
    ),
    _xlm_roberta(
        "BAAI/bge-reranker-base",
        (12, 768, 12, 3072),
        "huggingface.co/Xenova/bge-reranker-base, config.json at 1e3f8799, a copy of it",
    ),
    _xlm_roberta(
        "BAAI/bge-reranker-large",
        (24, 1024, 16, 4096),
        "huggingface.co/bmilon/rerank-based-on-BAAI, config.json at 194174c, a copy of it",
    ),
    _xlm_roberta(
        "BAAI/bge-reranker-v2-m3",
        (24, 1024, 16, 4096),
        "huggingface.co/BAAI/bge-reranker-v2-m3, config.json at 3f6000f2; the files at 12e97461 (model.safetensors of 2.27 GB, "
        "tokenizer.json, sentencepiece.bpe.model); its discussion 9 (8,192 tokens)",
        max_length=8192,
    ),
    _xlm_roberta(
        "maidalun1020/bce-reranker-base_v1",
        (12, 768, 12, 3072),
        "huggingface.co/maidalun1020/bce-reranker-base_v1, config.json at db9e8fe",
    ),
    Reranker(
        name="cross-encoder/stsb-roberta-base",
        kind="Roberta",
        shape=(12, 768, 12, 3072),
        vocab=50_265,
        max_length=512,
        config={"max_position_embeddings": 514, "layer_norm_eps": 1e-5, "type_vocab_size": 1},
        source="huggingface.co/ajax-law/cross-encoder-binary-classification-base, config.json at 5da52a3d, a copy of it",
    ),
    Reranker(
        name="Alibaba-NLP/gte-reranker-modernbert-base",
        kind="ModernBert",
        shape=(22, 768, 12, 1152),
        vocab=50_368,
        max_length=8192,
        dtype="float16",
        config=MODERNBERT | {"max_position_embeddings": 8192},
        source="the model card (8,192 tokens, 149M parameters) and config.json of Alibaba-NLP/gte-modernbert-base, as in "
        "huggingface.co/elucidator8918/frugal-ai-text at 95e5f8b5; its own config.json was not read",
    ),
    Reranker(
        name="tomaarsen/reranker-msmarco-v1.1-ModernBERT-base-bce",
        kind="ModernBert",
        shape=(22, 768, 12, 1152),
        vocab=50_368,
        max_length=8192,  # of the base model
        config=MODERNBERT | {"max_position_embeddings": 8192},
        source="the tags of its model card, and config.json of answerdotai/ModernBERT-base, as in "
        "huggingface.co/estrogen/ModernBERT-base-sbert-initialized at d80f2f10; its own config.json was not read",
    ),
    Reranker(
        name="ibm-granite/granite-embedding-reranker-english-r2",
        kind="ModernBert",
        shape=(22, 768, 12, 1152),
        vocab=50_368,
        max_length=8192,
        # The bases of the rotary frequencies were not read.
        config=MODERNBERT | {"max_position_embeddings": 8192, "classifier_pooling": "cls"},
        source="the model card (149M parameters, 768 wide, 8,192 tokens) and summaries of arXiv:2508.21085 (22 layers, a head on "
        "[CLS]); the rest is ModernBERT-base's, and its own config.json was not read",
    ),
    _ettin("17m", "very_tiny", (7, 256, 4, 384)),
    _ettin("32m", "tiny", (10, 384, 6, 576)),
    _ettin("68m", "mini", (19, 512, 8, 768)),
    _ettin("150m", "base", (22, 768, 12, 1152)),
    _ettin("400m", "large", (28, 1024, 16, 2624)),
    _ettin("1b", "huge", (28, 1792, 28, 3840)),
)


def write_reranker(model: Reranker, out: Path, *, layers: int | None = None, seed: int = 0) -> Path:
    """Write one checkpoint into its own folder in `out`, and return the folder. `layers` reduces the number of layers."""
    folder = out / model.folder
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    _write_tokenizer(model, folder)
    depth, hidden, heads, intermediate = model.shape
    special = SPECIAL[model.kind]
    begin, pad, end = (special.index(token) for token in _roles(model.kind))
    fields = dict(model.config) | {"num_labels": model.labels, "pad_token_id": pad}
    if model.kind == "ModernBert":
        fields |= {"cls_token_id": begin, "sep_token_id": end, "bos_token_id": begin, "eos_token_id": end}
    config = getattr(transformers, f"{model.kind}Config")(
        num_hidden_layers=layers or depth,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        vocab_size=model.vocab,
        **fields,
    )
    if model.activation and not model.modules:
        config.sentence_transformers = {"activation_fn": model.activation}
    kind = "Model" if model.modules else "ForSequenceClassification"
    generator = torch.Generator().manual_seed(seed)
    encoder = getattr(transformers, f"{model.kind}{kind}")(config)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(noise * 0.2)
            else:
                parameter.copy_(noise * (0.7 if "embeddings" in name else parameter.shape[1] ** -0.5))
    encoder.to(getattr(torch, model.dtype)).save_pretrained(folder)
    if model.modules:
        _write_modules(model, folder, generator)
    return folder


# -- modules of sentence-transformers


def _write_modules(model: Reranker, folder: Path, generator: torch.Generator) -> None:
    """Write Pooling, Dense, LayerNorm and Dense, as the training script of the ettin rerankers makes them."""
    hidden = model.shape[1]
    modules = [
        ("base.modules.transformer.Transformer", ""),
        ("sentence_transformer.modules.pooling.Pooling", "1_Pooling"),
        ("base.modules.dense.Dense", "2_Dense"),
        ("sentence_transformer.modules.layer_norm.LayerNorm", "3_LayerNorm"),
        ("base.modules.dense.Dense", "4_Dense"),
    ]
    listed = [
        {"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.{kind}"}
        for number, (kind, place) in enumerate(modules)
    ]
    dense = {"in_features": hidden, "module_input_name": "sentence_embedding"}
    settings: dict[str, Any] = {
        "modules.json": listed,
        "config_sentence_transformers.json": {"model_type": "CrossEncoder", "activation_fn": model.activation},
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        },
        "1_Pooling/config.json": {"embedding_dimension": hidden, "pooling_mode": "cls", "include_prompt": True},
        "2_Dense/config.json": dense
        | {
            "out_features": hidden,
            "bias": False,
            "activation_function": "torch.nn.modules.activation.GELU",
            "module_output_name": "sentence_embedding",
        },
        "3_LayerNorm/config.json": {"dimension": hidden},
        "4_Dense/config.json": dense
        | {"out_features": 1, "bias": True, "activation_function": IDENTITY, "module_output_name": "scores"},
    }
    for name, fields in settings.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    drawn = {
        "2_Dense": {"linear.weight": torch.randn(hidden, hidden, generator=generator) * hidden**-0.5},
        "3_LayerNorm": {
            "norm.weight": 1 + torch.randn(hidden, generator=generator) * 0.1,
            "norm.bias": torch.randn(hidden, generator=generator) * 0.1,
        },
        "4_Dense": {
            "linear.weight": torch.randn(1, hidden, generator=generator) * hidden**-0.5,
            "linear.bias": torch.randn(1, generator=generator) * 0.1,
        },
    }
    for place, tensors in drawn.items():
        save_file(tensors, folder / place / "model.safetensors", metadata={"format": "pt"})


# -- tokenizers


def _roles(kind: str) -> tuple[str, str, str]:
    """Return the tokens for the beginning, for padding and for the end."""
    if kind in DOUBLE:
        return "<s>", "<pad>", "</s>"
    return "[CLS]", "<pad>" if kind == "Albert" else "[PAD]", "[SEP]"


def _write_tokenizer(model: Reranker, folder: Path) -> None:
    """Write a small tokenizer.json of the published kind: Unigram, WordPiece or byte-level BPE, with the published template."""
    special = list(SPECIAL[model.kind])
    begin, pad, end = _roles(model.kind)
    unknown = next(token for token in special if "unk" in token.lower())
    if model.kind in ("ModernBert", "Roberta"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator([f" {word}" for word in WORDS] * 2, trainer)
    elif model.kind in ("MPNet", "Electra"):
        known = dict.fromkeys([*special, *(token for token in vocabulary(3000) if not token.startswith("["))])
        tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(known)}, unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        pieces = [(token, 0.0) for token in special] + [(f"▁{word}", -5.0) for word in WORDS]
        pieces.append(("▁", -9.0))
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index(unknown)))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    double = model.kind in DOUBLE
    second = 1 if model.kind in ("DebertaV2", "Albert", "Electra") else 0
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {f'{end} {end}' if double else end} $B:{second} {end}:{second}",
        special_tokens=[(token, special.index(token)) for token in (begin, end)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    inputs = ["input_ids", *(["token_type_ids"] if second else []), "attention_mask"]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.max_length,
        "model_input_names": inputs,
        "cls_token": begin,
        "pad_token": pad,
        "sep_token": end,
        "unk_token": unknown,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
