"""Checkpoints that are no cross-encoder that crossrt knows, in words: what was found, what is known, what else serves it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import EXPECTED, shown

VLLM = "vLLM (LLM.score, /rerank)"
CROSS_ENCODER = "sentence-transformers (CrossEncoder)"
OWN_CODE = "transformers or sentence-transformers with trust_remote_code=True, which runs the publisher's code"
ONNX = "where the publisher has an ONNX file too, crossrt opens that: crossrt export --onnx-file FILE"


@dataclass(frozen=True, slots=True)
class Found:
    """What tells a kind of checkpoint: its class, config.json, the names of its tensors, and its modules' kinds."""

    architecture: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Any]
    modules: list[str]

    def holds(self, part: str) -> bool:
        """Tell whether a tensor's name contains `part`."""
        return any(part in name for name in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A kind of checkpoint that crossrt does not export: how it is told, what it is, and what serves it.

    `like_known` says that its tensors would be taken for those of a known architecture.
    """

    sign: Callable[[Found], bool]
    kind: str
    served: str
    like_known: bool = False


STRANGERS = (
    # jina-reranker-v1-turbo-en, jina-reranker-v1-tiny-en.
    Stranger(
        sign=lambda found: found.config.get("position_embedding_type") == "alibi" or found.holds(".mlp.gated_layers."),
        kind="is a JinaBERT: its attention has ALiBi biases instead of position embeddings, and its layers are gated; crossrt "
        "computes neither",
        served=f"{OWN_CODE}; {ONNX}",
        like_known=True,
    ),
    # jina-reranker-v2-base-multilingual: XLM-R with the tensors of flash-attention's layers.
    Stranger(
        sign=lambda found: found.holds(".mixer.Wqkv."),
        kind="has layers of code of its publisher (mixer.Wqkv), as Jina's XLM-R with flash attention; crossrt does not know them",
        served=f"{OWN_CODE}; {ONNX}",
        like_known=True,
    ),
    Stranger(
        sign=lambda found: found.holds(".attention.self.in_proj.") and found.config.get("model_type") == "deberta",
        kind="is a DeBERTa of the first version, whose attention is computed otherwise than that of DeBERTa-v2 and v3, which "
        "crossrt knows",
        served=CROSS_ENCODER,
    ),
    # gte-multilingual-reranker-base.
    Stranger(
        sign=lambda found: found.holds("new.encoder.layer.") or found.architecture.startswith(("New", "Gte")),
        kind="is a GTE encoder with rotary positions and gated layers (model_type new or gte), which crossrt does not know",
        served=f"Text Embeddings Inference (/rerank), {VLLM}, or {OWN_CODE}",
    ),
    # jina-reranker-v3.
    Stranger(
        sign=lambda found: found.architecture == "JinaForRanking",
        kind="is a decoder that scores a whole list of passages at once (JinaForRanking); crossrt scores pairs with encoders",
        served="transformers with trust_remote_code=True, which runs the publisher's code",
    ),
    # Qwen3-Reranker-0.6B-seq-cls, bge-reranker-v2-gemma as vLLM loads it, llama-nemotron-rerank-1b-v2.
    Stranger(
        sign=lambda found: "score.weight" in found.tensors,
        kind="has a head named score (score.weight), as decoders that rerank have it, such as those of Qwen, Llama and Gemma; "
        "crossrt exports encoders: a decoder needs other attention, prompts and kernels",
        served=f"{VLLM}, {CROSS_ENCODER}",
    ),
    # bge-reranker-v2-minicpm-layerwise.
    Stranger(
        sign=lambda found: found.architecture.startswith("LayerWise"),
        kind="is a generative model whose layers each score (LayerWise); crossrt exports encoders",
        served="FlagEmbedding (LayerWiseFlagLLMReranker)",
    ),
    # monot5-base-msmarco, mt5.
    Stranger(
        sign=lambda found: found.architecture.endswith("ForConditionalGeneration"),
        kind="is a generative model with an encoder and a decoder, as monoT5, which scores by the word that it would write; "
        "crossrt exports encoders with a head",
        served="rerankers (T5), pygaggle",
    ),
    # Qwen3-Reranker-0.6B, mxbai-rerank-base-v2, bge-reranker-v2-gemma.
    Stranger(
        sign=lambda found: found.architecture.endswith(("ForCausalLM", "LMHeadModel")),
        kind="is a generative model, which scores by the word that it would write, such as yes or no; crossrt exports encoders "
        "with a head",
        served=f"{VLLM}; sentence-transformers 6 (CrossEncoder with LogitScore); SGLang",
    ),
    # colbertv2.0, answerai-colbert-small-v1, and those of PyLate.
    Stranger(
        sign=lambda found: (
            found.architecture in ("HF_ColBERT", "ColBERT", "ColBERTModel") or "linear.weight" in found.tensors
        ),
        kind="is a ColBERT: it has a vector for each token and compares queries with passages by MaxSim, without a head",
        served="PyLate, sentence-transformers 6 (MultiVectorEncoder), vLLM",
    ),
    Stranger(
        sign=lambda found: "Dense" in found.modules,
        kind="is made of sentence-transformers' modules {modules} (modules.json), and config_sentence_transformers.json does not "
        "call it a CrossEncoder: a bi-encoder, or a cross-encoder whose head is a Dense module and whose files are incomplete",
        served="sentence-transformers (SentenceTransformer), Text Embeddings Inference (/embed)",
    ),
    Stranger(
        sign=lambda found: any(name.startswith(("module.", "_orig_mod.")) for name in found.tensors),
        kind="has some names that begin with the module. of DataParallel and others that do not; save model.module.state_dict()",
        served="",
    ),
    # splade-cocondenser-ensembledistil; also models that are not fine-tuned yet.
    Stranger(
        sign=lambda found: found.architecture.endswith("ForMaskedLM"),
        kind="is a masked language model: SPLADE, or a model before its fine-tuning. It has no classification head, and a random "
        "one gives plausible scores",
        served="sentence-transformers (SparseEncoder) for SPLADE; fine-tune any other with CrossEncoderTrainer",
    ),
    Stranger(
        sign=lambda found: bool(found.modules) or found.architecture.endswith("Model"),
        kind="is a bi-encoder or a bare trunk: it has no classification head, and a random one gives plausible scores",
        served="sentence-transformers (SentenceTransformer), Text Embeddings Inference (/embed), vLLM",
    ),
    Stranger(
        sign=lambda found: not found.holds("classif"),
        kind="has no classification head, and a random one gives plausible scores",
        served="",
    ),
)
"""In the order in which they are tried."""
OTHER = Stranger(
    sign=lambda found: True,
    kind="is of an architecture that crossrt does not know",
    served=f"{CROSS_ENCODER} for every ...ForSequenceClassification of transformers; {ONNX}",
)


def looks_known_and_is_not(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint computes something else than the known architecture that its tensors are named like."""
    return _stranger(_found(path, config, tensors)).like_known


def not_a_cross_encoder(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    """Say in words what a checkpoint without a known head is instead, and what serves it."""
    found = _found(path, config, tensors)
    stranger = _stranger(found)
    lines = [
        f"{path} {stranger.kind.format(modules=', '.join(found.modules))}",
        f"  found     {found.architecture} (model_type {shown(config.get('model_type', '?'))}, {len(tensors)} tensors), such as "
        f"{', '.join(list(tensors)[:3]) or 'none at all'}",
        f"  {EXPECTED}",
    ]
    if config.get("auto_map"):
        lines.append("  custom    config.json names code of the publisher (auto_map), which crossrt never runs")
    if stranger.served:
        lines.append(f"  instead   {stranger.served}")
    return "\n".join(lines)


def _found(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Found:
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else "?"
    return Found(architecture, config, tensors, _modules(path))


def _stranger(found: Found) -> Stranger:
    return next((each for each in STRANGERS if each.sign(found)), OTHER)


def _modules(path: Path) -> list[str]:
    """Return the kinds of a checkpoint's sentence-transformers modules, such as Transformer, Pooling, Dense."""
    try:
        modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        return [str(module["type"]).rpartition(".")[2] for module in modules]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return []
