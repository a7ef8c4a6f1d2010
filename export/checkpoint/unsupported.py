"""Error messages for checkpoints that crossrt does not export: what was found, what is supported, and what else can run it."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...engine.errors import CheckpointError
from ...engine.process.telemetry import telemetry_off
from .files import EXPECTED, shown
from .heads import head_of, layout_of

VLLM = "vLLM (LLM.score, /rerank)"
CROSS_ENCODER = "sentence-transformers (CrossEncoder)"
OWN_CODE = "transformers or sentence-transformers with trust_remote_code=True, which runs the publisher's code"
ONNX = "where the publisher has an ONNX file too, crossrt opens that: crossrt export --onnx-file FILE"
OTHER_TASKS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
"""Suffixes of class names whose tensors may have the same names as those of a `...ForSequenceClassification`."""


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """Properties that identify a kind of checkpoint: `architectures` and other fields of config.json, tensors, module classes."""

    architectures: list[str]
    config: Mapping[str, Any]
    tensors: Mapping[str, Any]
    modules: list[str]

    @property
    def architecture(self) -> str:
        """The first class, or a question mark."""
        return self.architectures[0] if self.architectures else "?"

    def holds(self, part: str) -> bool:
        """Tell whether a tensor's name contains `part`."""
        return any(part in name for name in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsupportedKind:
    """A kind of checkpoint that crossrt does not export.

    `matches` recognizes it, `kind` describes it, and `alternatives` names the software that can run it. `resembles_supported`
    says that its tensors may have the same names as those of a supported architecture.
    """

    matches: Callable[[FoundCheckpoint], bool]
    kind: str
    alternatives: str
    resembles_supported: bool = False


UNSUPPORTED_KINDS = (
    # jina-reranker-v1-turbo-en, jina-reranker-v1-tiny-en.
    UnsupportedKind(
        matches=lambda found: (
            found.config.get("position_embedding_type") == "alibi" or found.holds(".mlp.gated_layers.")
        ),
        kind="is a JinaBERT: its attention has ALiBi biases instead of position embeddings, and its layers are gated; crossrt "
        "computes neither",
        alternatives=f"{OWN_CODE}; {ONNX}",
        resembles_supported=True,
    ),
    # jina-reranker-v2-base-multilingual: XLM-R with the tensors of flash-attention's layers.
    UnsupportedKind(
        matches=lambda found: found.holds(".mixer.Wqkv."),
        kind="has layers of code of its publisher (mixer.Wqkv), as Jina's XLM-R with flash attention; crossrt does not know them",
        alternatives=f"{OWN_CODE}; {ONNX}",
        resembles_supported=True,
    ),
    UnsupportedKind(
        matches=lambda found: found.holds(".attention.self.in_proj.") and found.config.get("model_type") == "deberta",
        kind="is a DeBERTa of the first version, whose attention is computed otherwise than that of DeBERTa-v2 and v3, which "
        "crossrt knows",
        alternatives=CROSS_ENCODER,
    ),
    # gte-multilingual-reranker-base.
    UnsupportedKind(
        matches=lambda found: found.holds("new.encoder.layer.") or found.architecture.startswith(("New", "Gte")),
        kind="is a GTE encoder with rotary positions and gated layers (model_type new or gte), which crossrt does not know",
        alternatives=f"Text Embeddings Inference (/rerank), {VLLM}, and {CROSS_ENCODER}: where transformers has "
        "GteForSequenceClassification (5.24 has) and config.json says model_type gte, without the publisher's code; as it is "
        "published, with trust_remote_code=True, which runs that code",
    ),
    # jina-reranker-v3.
    UnsupportedKind(
        matches=lambda found: found.architecture == "JinaForRanking",
        kind="is a decoder that scores a whole list of passages at once (JinaForRanking); crossrt scores pairs with encoders",
        alternatives="transformers with trust_remote_code=True, which runs the publisher's code",
    ),
    # Qwen3-Reranker-0.6B-seq-cls, bge-reranker-v2-gemma as vLLM loads it, llama-nemotron-rerank-1b-v2.
    UnsupportedKind(
        matches=lambda found: "score.weight" in found.tensors,
        kind="has a head named score (score.weight), as decoders that rerank have it, such as those of Qwen, Llama and Gemma; "
        "crossrt exports encoders: a decoder needs other attention, prompts and kernels",
        alternatives=f"{VLLM}, {CROSS_ENCODER}",
    ),
    # bge-reranker-v2-minicpm-layerwise.
    UnsupportedKind(
        matches=lambda found: found.architecture.startswith("LayerWise"),
        kind="is a generative model whose layers each score (LayerWise); crossrt exports encoders",
        alternatives="FlagEmbedding (LayerWiseFlagLLMReranker)",
    ),
    # monot5-base-msmarco, mt5.
    UnsupportedKind(
        matches=lambda found: found.architecture.endswith("ForConditionalGeneration"),
        kind="is a generative model with an encoder and a decoder, as monoT5, which scores by the word that it would write; "
        "crossrt exports encoders with a head",
        alternatives="rerankers (T5), pygaggle",
    ),
    # Qwen3-Reranker-0.6B, mxbai-rerank-base-v2, bge-reranker-v2-gemma.
    UnsupportedKind(
        matches=lambda found: found.architecture.endswith(("ForCausalLM", "LMHeadModel")),
        kind="is a generative model, which scores by the word that it would write, such as yes or no; crossrt exports encoders "
        "with a head",
        alternatives=f"{VLLM}; sentence-transformers 6 (CrossEncoder with LogitScore); SGLang",
    ),
    # colbertv2.0, answerai-colbert-small-v1, and those of PyLate.
    UnsupportedKind(
        matches=lambda found: (
            found.architecture in ("HF_ColBERT", "ColBERT", "ColBERTModel") or "linear.weight" in found.tensors
        ),
        kind="is a ColBERT: it has a vector for each token and compares queries with passages by MaxSim, without a head",
        alternatives="PyLate, sentence-transformers 6 (MultiVectorEncoder), vLLM",
    ),
    UnsupportedKind(
        matches=lambda found: "Dense" in found.modules,
        kind="is made of sentence-transformers' modules {modules} (modules.json), and config_sentence_transformers.json does not "
        "call it a CrossEncoder: a bi-encoder, or a cross-encoder whose head is a Dense module and whose files are incomplete",
        alternatives="sentence-transformers (SentenceTransformer), Text Embeddings Inference (/embed)",
    ),
    UnsupportedKind(
        matches=lambda found: any(name.endswith(OTHER_TASKS) for name in found.architectures),
        kind="is a model for another task ({architecture}). Its tensors may have the names of a ...ForSequenceClassification's, "
        "and it is no cross-encoder",
        alternatives="transformers (pipeline) for its own task; train a reranker with CrossEncoderTrainer of "
        "sentence-transformers",
        resembles_supported=True,
    ),
    UnsupportedKind(
        matches=lambda found: any(name.startswith(("module.", "_orig_mod.")) for name in found.tensors),
        kind="has some names that begin with the module. of DataParallel and others that do not; save model.module.state_dict()",
        alternatives="nothing else reads these names either: transformers gives such tensors random values",
    ),
    # splade-cocondenser-ensembledistil; also models that are not fine-tuned yet.
    UnsupportedKind(
        matches=lambda found: found.architecture.endswith("ForMaskedLM"),
        kind="is a masked language model: SPLADE, or a model before its fine-tuning. It has no classification head, and a random "
        "one gives plausible scores",
        alternatives="sentence-transformers (SparseEncoder) for SPLADE; fine-tune any other with CrossEncoderTrainer",
    ),
    UnsupportedKind(
        matches=lambda found: bool(found.modules) or found.architecture.endswith("Model"),
        kind="is a bi-encoder or a bare trunk: it has no classification head, and a random one gives plausible scores",
        alternatives="sentence-transformers (SentenceTransformer), Text Embeddings Inference (/embed), vLLM",
    ),
    UnsupportedKind(
        matches=lambda found: not found.holds("classif"),
        kind="has no classification head, and a random one gives plausible scores",
        alternatives="sentence-transformers: SentenceTransformer for a bi-encoder, CrossEncoderTrainer to train a reranker",
    ),
)
"""All kinds, in the order in which they are tried."""


def _is_another_of_transformers(found: FoundCheckpoint) -> bool:
    """Tell whether transformers knows the model_type, or a class, as an architecture that crossrt does not support.

    Such a model may have the tensor names of a supported one but compute something else. For example, BigBird has BERT's tensors
    and sparse attention.
    """
    with telemetry_off():
        import transformers

    kind = found.config.get("model_type")
    types = [{kind}] if isinstance(kind, str) and kind in transformers.CONFIG_MAPPING else []
    types += [_model_types()[name] for name in found.architectures if name in _model_types()]
    return any(all(layout_of(each) is None for each in group) for group in types)


@cache
def _model_types() -> Mapping[str, set[str]]:
    """Return the model types of each class that transformers' auto classes can load, by the name of the class."""
    with telemetry_off():
        from transformers.models.auto import modeling_auto

    types: dict[str, set[str]] = {}
    for table, held in vars(modeling_auto).items():
        for kind, classes in held.items() if table.endswith("_MAPPING_NAMES") else ():
            for name in (classes,) if isinstance(classes, str) else classes:
                types.setdefault(name, set()).add(kind)
    return types


OTHER = UnsupportedKind(
    matches=_is_another_of_transformers,
    kind="is of an architecture that crossrt does not know",
    alternatives=f"{CROSS_ENCODER} for every ...ForSequenceClassification of transformers; {ONNX}",
    resembles_supported=True,
)
"""The kind of a checkpoint that matches none of `UNSUPPORTED_KINDS`."""
REFUSED_ALTERNATIVES = f"{CROSS_ENCODER} scores every checkpoint that transformers can load; {ONNX}"
"""What may run a checkpoint of a supported architecture with a setting that crossrt does not support."""


class UnsupportedCheckpointError(CheckpointError):
    """A checkpoint that is not a cross-encoder of a supported architecture. `alternatives` names the software that can run it."""

    def __init__(self, said: str, alternatives: str) -> None:
        super().__init__(said)
        self.alternatives = alternatives


def resembles_supported(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint has the tensor names of a supported architecture but computes something else."""
    return _resembling_kind(_found(path, config, tensors)) is not None


def unsupported_error(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> UnsupportedCheckpointError:
    """Return the error for a checkpoint that is not a cross-encoder of a supported architecture."""
    found = _found(path, config, tensors)
    unsupported = _resembling_kind(found) if head_of(tensors) is not None else None
    unsupported = unsupported or next((each for each in UNSUPPORTED_KINDS if each.matches(found)), OTHER)
    kind = unsupported.kind.format(modules=", ".join(found.modules), architecture=found.architecture)
    return UnsupportedCheckpointError(f"{path} {kind}", unsupported.alternatives)


@contextmanager
def naming_alternatives(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Iterator[None]:
    """Add to each CheckpointError the architecture that was found, those that are supported, and what else may run it."""
    try:
        yield
    except CheckpointError as error:
        found = _found(path, config, tensors)
        lines = [
            str(error),
            f"  found     {found.architecture} (model_type {shown(config.get('model_type', '?'))}, {len(tensors)} tensors), such "
            f"as {', '.join(list(tensors)[:3]) or 'none at all'}",
            f"  {EXPECTED}",
        ]
        if config.get("auto_map"):
            lines.append("  custom    config.json names code of the publisher (auto_map), which crossrt never runs")
        alternatives = error.alternatives if isinstance(error, UnsupportedCheckpointError) else REFUSED_ALTERNATIVES
        raise CheckpointError("\n".join([*lines, f"  instead   {alternatives}"])) from error


def _found(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> FoundCheckpoint:
    named = config.get("architectures")
    return FoundCheckpoint(
        [str(name) for name in named] if isinstance(named, list) else [], config, tensors, _modules(path)
    )


def _resembling_kind(found: FoundCheckpoint) -> UnsupportedKind | None:
    return next(
        (each for each in (*UNSUPPORTED_KINDS, OTHER) if each.resembles_supported and each.matches(found)), None
    )


def _modules(path: Path) -> list[str]:
    """Return the classes of a checkpoint's sentence-transformers modules, such as Transformer, Pooling, Dense."""
    try:
        modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        return [str(module["type"]).rpartition(".")[2] for module in modules]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return []
