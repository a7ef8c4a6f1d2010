#!/usr/bin/env python3
"""Write the fifteen MS MARCO cross-encoders with their exact architectures and seeded random weights.

    scripts/model_zoo.py zoo                                    all fifteen, 6 GB
    scripts/model_zoo.py zoo --only TinyBERT-L-2-v2 --layers 2
    scripts/model_zoo.py zoo --only ettin-reranker-17m          rerankers of other architectures, only by name

Each of the fifteen has the files, formats, tensor names and peculiarities of the published repository, so that code that exports
these also exports the real ones. The scores mean nothing, since random weights are enough for shapes, speed and parity.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from reranker_zoo import RERANKERS, write_reranker
from safetensors.torch import save_file
from zoo_words import vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One published checkpoint. `published_*` are from the model card: nDCG@10, MRR@10, documents per second on a V100."""

    name: str
    kind: str  # bert, electra, electra-plain, bert-cat
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int = 30522
    labels: int = 1
    activation: str | None = None  # if config.json names one
    modern: bool = False  # has model.safetensors and tokenizer.json; else pytorch_model.bin and vocab.txt
    published_ndcg10: float
    published_mrr10: float
    published_docs_per_s: int

    @property
    def folder(self) -> str:
        """The name of the model's directory."""
        return self.name.replace("/", "__")


def _v2(name: str, layers: int, hidden: int, heads: int, intermediate: int, *published: Any) -> ZooModel:
    return ZooModel(
        name=f"cross-encoder/ms-marco-{name}",
        kind="bert",
        layers=layers,
        hidden=hidden,
        heads=heads,
        intermediate=intermediate,
        activation="torch.nn.modules.linear.Identity",
        modern=True,
        published_ndcg10=published[0],
        published_mrr10=published[1],
        published_docs_per_s=published[2],
    )


def _old(
    name: str, kind: str, shape: tuple[int, int, int, int], published: tuple[float, float, int], **fields: Any
) -> ZooModel:
    layers, hidden, heads, intermediate = shape
    return ZooModel(
        name=name,
        kind=kind,
        layers=layers,
        hidden=hidden,
        heads=heads,
        intermediate=intermediate,
        published_ndcg10=published[0],
        published_mrr10=published[1],
        published_docs_per_s=published[2],
        **fields,
    )


TINY2, TINY4, TINY6 = (2, 128, 2, 512), (4, 312, 12, 1200), (6, 768, 12, 3072)
BASE, LARGE = (12, 768, 12, 3072), (24, 1024, 16, 4096)

ZOO: tuple[ZooModel, ...] = (
    _v2("TinyBERT-L-2-v2", *TINY2, 69.84, 32.56, 9000),
    _v2("MiniLM-L-2-v2", 2, 384, 12, 1536, 71.01, 34.85, 4100),
    _v2("MiniLM-L-4-v2", 4, 384, 12, 1536, 73.04, 37.70, 2500),
    _v2("MiniLM-L-6-v2", 6, 384, 12, 1536, 74.30, 39.01, 1800),
    _v2("MiniLM-L-12-v2", 12, 384, 12, 1536, 74.31, 39.02, 960),
    # The shape of TinyBERT-L-2 (v1) is taken from v2; its published config could not be read.
    _old("cross-encoder/ms-marco-TinyBERT-L-2", "bert", TINY2, (67.43, 30.15, 9000)),
    _old("cross-encoder/ms-marco-TinyBERT-L-4", "bert", TINY4, (68.09, 34.50, 2900)),
    _old("cross-encoder/ms-marco-TinyBERT-L-6", "bert", TINY6, (69.57, 36.13, 680)),
    _old("cross-encoder/ms-marco-electra-base", "electra", BASE, (71.99, 36.41, 340)),
    # The intermediate size of nboost's TinyBERT is taken from TinyBERT-L-4; its published config could not be read.
    _old("nboost/pt-tinybert-msmarco", "bert", TINY4, (63.63, 28.80, 2900), labels=2),
    _old("nboost/pt-bert-base-uncased-msmarco", "bert", BASE, (70.94, 34.75, 340), labels=2),
    _old("nboost/pt-bert-large-msmarco", "bert", LARGE, (73.36, 36.48, 100), labels=2),
    _old("Capreolus/electra-base-msmarco", "electra-plain", BASE, (71.23, 36.89, 340), labels=2),
    _old(
        "amberoad/bert-multilingual-passage-reranking-msmarco",
        "bert",
        BASE,
        (68.40, 35.54, 330),
        labels=2,
        vocab=105879,
    ),
    _old("sebastian-hofstaetter/distilbert-cat-margin_mse-T2-msmarco", "bert-cat", TINY6, (72.82, 37.88, 720)),
)


def write_model(model: ZooModel, out: Path, *, layers: int | None = None, seed: int = 0) -> Path:
    """Write one checkpoint into its own folder in `out`, and return the folder. `layers` reduces the number of layers."""
    folder = out / model.folder
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    depth = layers or model.layers
    torch.manual_seed(seed)
    tensors = dict(_tensors(model, depth))
    if model.modern:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(tensors, folder / "pytorch_model.bin")
    _write_json(folder / "config.json", _config(model, depth))
    _write_tokenizer(model, folder)
    return folder


# -- tensors


def _tensors(model: ZooModel, layers: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the named weights, scaled so that different pairs get clearly different logits."""
    trunk = {"bert": "bert.", "electra": "electra.", "electra-plain": "electra.", "bert-cat": "bert_model."}[model.kind]
    distil = model.kind == "bert-cat"
    hidden, wide = model.hidden, model.intermediate
    yield f"{trunk}embeddings.word_embeddings.weight", torch.randn(model.vocab, hidden)
    yield f"{trunk}embeddings.position_embeddings.weight", torch.randn(512, hidden) * 0.3
    if not distil:
        yield f"{trunk}embeddings.token_type_embeddings.weight", torch.randn(2, hidden) * 0.5
    yield from _norm(f"{trunk}embeddings.LayerNorm", hidden)
    if not distil and not model.modern:
        yield f"{trunk}embeddings.position_ids", torch.arange(512)[None]  # a buffer that old transformers saved
    for number in range(layers):
        if distil:
            layer = f"{trunk}transformer.layer.{number}."
            names = [f"attention.{part}_lin" for part in ("q", "k", "v", "out")]
            first, second, norms = "ffn.lin1", "ffn.lin2", ("sa_layer_norm", "output_layer_norm")
        else:
            layer = f"{trunk}encoder.layer.{number}."
            names = [*(f"attention.self.{part}" for part in ("query", "key", "value")), "attention.output.dense"]
            first, second, norms = (
                "intermediate.dense",
                "output.dense",
                ("attention.output.LayerNorm", "output.LayerNorm"),
            )
        for name in names:
            yield from _linear(layer + name, hidden, hidden)
        yield from _linear(layer + first, wide, hidden)
        yield from _linear(layer + second, hidden, wide)
        for name in norms:
            yield from _norm(layer + name, hidden)
    if model.kind == "bert":
        yield from _linear("bert.pooler.dense", hidden, hidden)
        yield from _linear("classifier", model.labels, hidden, gain=4)
    elif model.kind == "electra":
        yield from _linear("classifier.dense", hidden, hidden)
        yield from _linear("classifier.out_proj", model.labels, hidden, gain=4)
    elif model.kind == "electra-plain":
        yield from _linear("classifier.out_proj", model.labels, hidden, gain=4)
    else:
        yield from _linear("_classification_layer", model.labels, hidden, gain=4)
    if model.name == "nboost/pt-tinybert-msmarco":  # left over from distillation; the model does not use it
        yield from _linear("fit_dense", 768, hidden)


def _linear(name: str, rows: int, columns: int, gain: float = 1.0) -> Iterator[tuple[str, torch.Tensor]]:
    yield f"{name}.weight", torch.randn(rows, columns) * gain * columns**-0.5
    yield f"{name}.bias", torch.randn(rows) * 0.1


def _norm(name: str, size: int) -> Iterator[tuple[str, torch.Tensor]]:
    yield f"{name}.weight", 1 + torch.randn(size) * 0.1
    yield f"{name}.bias", torch.randn(size) * 0.1


# -- configuration


def _config(model: ZooModel, layers: int) -> dict[str, Any]:
    if model.kind == "bert-cat":  # names its base instead of giving dimensions
        return {
            "architectures": ["BERT_Cat"],
            "bert_model": "distilbert-base-uncased",
            "model_type": "BERT_Cat",
            "trainable": True,
        }
    labels = {
        "id2label": {str(i): f"LABEL_{i}" for i in range(model.labels)},
        "label2id": {f"LABEL_{i}": i for i in range(model.labels)},
    }
    config: dict[str, Any] = {
        "architectures": [
            "BertForSequenceClassification" if model.kind == "bert" else "ElectraForSequenceClassification"
        ],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": model.hidden,
        "initializer_range": 0.02,
        "intermediate_size": model.intermediate,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert" if model.kind == "bert" else "electra",
        "num_attention_heads": model.heads,
        "num_hidden_layers": layers,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": model.vocab,
    }
    if model.kind != "bert":
        config |= {"embedding_size": model.hidden, "summary_activation": "gelu", "summary_type": "first"}
    if model.name.startswith("nboost/"):  # written before configs had a model_type
        del config["model_type"], config["architectures"]
        return config | {"num_labels": model.labels}
    if model.activation:
        config["sbert_ce_default_activation_function"] = model.activation
        config["torch_dtype"] = "float32"
    return config | labels


# -- tokenizer


def _write_tokenizer(model: ZooModel, folder: Path) -> None:
    tokens = vocabulary(model.vocab, multilingual=model.vocab > 100_000)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    settings = {"do_lower_case": True, "model_max_length": 512}
    if model.modern:
        special = {
            name: f"[{name[:4].rstrip('_').upper()}]"
            for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        }
        settings |= special | {"tokenizer_class": "BertTokenizer"}
        _write_json(folder / "tokenizer_config.json", settings)
        fast = transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer
        if model.name.endswith("MiniLM-L-6-v2"):  # published files sometimes carry truncation and padding of their own
            fast.enable_truncation(128)
            fast.enable_padding(length=128)
        (folder / "tokenizer.json").write_text(fast.to_str(), encoding="utf-8")
    else:
        _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def selected(names: list[str] | None) -> list[ZooModel]:
    """Return those of the fifteen whose name contains one of `names`, or all of them without names."""
    return [model for model in ZOO if not names or any(name in model.name for name in names)]


def main() -> None:
    """Write the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="where the folders go")
    parser.add_argument("--only", action="append", help="part of a name; may be repeated")
    parser.add_argument("--layers", type=int, help="cut the depth to this many layers")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    models = selected(arguments.only)
    others = [model for model in RERANKERS if any(name in model.name for name in arguments.only or [])]
    if not models and not others:
        known = ", ".join(model.name for model in (*ZOO, *RERANKERS))
        parser.error(f"no model is called {arguments.only}; there are {known}")
    for model in models:
        print(write_model(model, arguments.out, layers=arguments.layers, seed=arguments.seed))
    for other in others:
        print(write_reranker(other, arguments.out, layers=arguments.layers, seed=arguments.seed))


if __name__ == "__main__":
    main()
