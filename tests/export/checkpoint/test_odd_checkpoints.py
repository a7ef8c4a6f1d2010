"""Odd checkpoints: each scores as transformers has it, or is refused in words.

One row a case. To add one: name it, say which small model it starts from, write what is changed, and give the words of the
refusal, or none where the scores must be those of transformers.
"""

import json
import os
import pickle
import random
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from crossrt import CrossEncoder
from crossrt.engine.errors import CheckpointError, CrossrtError
from crossrt.export import export
from crossrt.export.bundle.manifest import manifest_of
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.pretrained import tokenizer_of
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.export import export_bundle
from crossrt.export.graph.writer import graph_of
from crossrt.export.precision.native_weights import can_be_native, gradient_sites
from crossrt.export.precision.score_gradients import score_gradients
from tests.conftest import vocabulary

PAIRS = [
    ("how long does it take", "Berlin is a city"),
    ("where is the river", "the river is long and green " * 5),
    ("what is in the water " * 9, "Eggs and salt in the water, the red sun and the blue mountain " * 3),
    ("renew", ""),
]
Edit = Callable[[Path], object]


# -- the small models


def _lively(model: Any, seed: int = 0) -> None:
    """Give every parameter values that change the scores."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                width = 0.5 if "embeddings" in name else parameter.shape[1] ** -0.5
                parameter.copy_(noise * width)
            else:
                parameter.add_(noise * 0.2)


def _bert_files(path: Path, **config: Any) -> int:
    (path / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (path / "tokenizer_config.json").write_text(json.dumps(settings | config))
    transformers.AutoTokenizer.from_pretrained(path).save_pretrained(path)
    return len(vocabulary())


def _roberta_files(path: Path) -> int:
    """A tokenizer with RoBERTa's special tokens and template, over words."""
    words = [word for word in vocabulary() if word.isalpha()]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *words]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(tokens[:4])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(path / "tokenizer.json"))
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    special |= {"pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(special))
    return len(tokens)


BERT_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
DISTILBERT_SIZES = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}


def _write(path: Path, kind: str, **fields: Any) -> None:
    path.mkdir(parents=True)
    like_roberta = kind in ("Roberta", "XLMRoberta", "Camembert", "MPNet")
    inputs = {"model_input_names": ["input_ids", "attention_mask"]} if kind == "ModernBert" else {}
    vocab = _roberta_files(path) if like_roberta else _bert_files(path, **inputs)
    sizes = DISTILBERT_SIZES if kind == "DistilBert" else BERT_SIZES
    if kind == "Electra":
        sizes = sizes | {"embedding_size": 8}
    if like_roberta:
        sizes = sizes | {"type_vocab_size": 1, "pad_token_id": 1}
    config = getattr(transformers, f"{kind}Config")(
        **{"vocab_size": vocab, "max_position_embeddings": 64, "num_labels": 1} | sizes | fields
    )
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    _lively(model)
    model.save_pretrained(path)


KINDS: dict[str, dict[str, Any]] = {
    "bert": {"kind": "Bert"},
    "bert of two labels": {"kind": "Bert", "num_labels": 2},
    "bert of one layer": {"kind": "Bert", "num_hidden_layers": 1},
    "bert of one token type": {"kind": "Bert", "type_vocab_size": 1},
    "bert with heads of 5 channels": {"kind": "Bert", "hidden_size": 15, "num_attention_heads": 3},
    "bert of 37 positions": {"kind": "Bert", "max_position_embeddings": 37},
    "bert with relu": {"kind": "Bert", "hidden_act": "relu"},
    "bert with gelu_new": {"kind": "Bert", "hidden_act": "gelu_new"},
    "bert with more words than the tokenizer": {"kind": "Bert", "vocab_size": len(vocabulary()) + 27},
    "roberta": {"kind": "Roberta"},
    "xlm-roberta": {"kind": "XLMRoberta"},
    "camembert": {"kind": "Camembert"},
    "distilbert": {"kind": "DistilBert"},
    "electra": {"kind": "Electra"},
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the directory of a small model, which is written once."""
    folder = tmp_path_factory.mktemp("originals")

    def written(name: str) -> Path:
        path = folder / name
        if not path.exists():
            _write(path, **KINDS[name])
        return path

    return written


# -- what is changed


def config(**fields: Any) -> Edit:
    """Change fields of config.json; `...` takes a field out."""
    return lambda path: _edit_json(path / "config.json", fields)


def tokenizer_config(**fields: Any) -> Edit:
    return lambda path: _edit_json(path / "tokenizer_config.json", fields)


def _edit_json(file: Path, fields: dict[str, Any]) -> None:
    held = json.loads(file.read_text(encoding="utf-8")) | fields
    file.write_text(json.dumps({name: value for name, value in held.items() if value is not ...}), encoding="utf-8")


def tokenizer_json(change: Callable[[dict[str, Any]], object]) -> Edit:
    def edit(path: Path) -> None:
        fields = json.loads((path / "tokenizer.json").read_text())
        change(fields)
        (path / "tokenizer.json").write_text(json.dumps(fields))

    return edit


def tensors(change: Callable[[dict[str, Any]], object]) -> Edit:
    """Change the dictionary of tensors, in place or by returning another one."""

    def edit(path: Path) -> None:
        held = load_file(path / "model.safetensors")
        held = change(held) or held  # type: ignore[assignment]
        save_file({name: value.contiguous() for name, value in held.items()}, path / "model.safetensors")

    return edit


def pytorch_file(change: Callable[[dict[str, Any]], Any] = lambda held: held) -> Edit:
    """Store the weights as pytorch_model.bin."""

    def edit(path: Path) -> None:
        torch.save(change(load_file(path / "model.safetensors")), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()

    return edit


def file(name: str, content: str | bytes | None) -> Edit:
    """Write a file, or delete it."""

    def edit(path: Path) -> None:
        if content is None:
            (path / name).unlink(missing_ok=True)
        else:
            (path / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return edit


def replaced(value: float, name: str) -> Edit:
    """Put NaN or infinity into one tensor."""
    return tensors(lambda held: held[name].view(-1)[:1].fill_(value) and None)


def both(*edits: Edit) -> Edit:
    return lambda path: [edit(path) for edit in edits] and None


def _whole_model(path: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(path)
    torch.save(model, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def _training_output(path: Path) -> None:
    for step in (500, 1000):
        shutil.copytree(path, path.parent / "kept")
        shutil.move(path.parent / "kept", path.parent / f"checkpoint-{step}")
    shutil.rmtree(path)
    path.mkdir()
    for step in (500, 1000):
        shutil.move(path.parent / f"checkpoint-{step}", path)


def _in_folders(*names: str) -> Edit:
    """Move the model into folders of its directory."""

    def edit(path: Path) -> None:
        shutil.move(path, path.parent / "moved")
        for name in names:
            shutil.copytree(path.parent / "moved", path / name)

    return edit


def sharded(kind: str, then: Edit = lambda path: None, *, count: int = 2) -> Edit:
    """Store the weights in files of `kind`, safetensors or bin, with an index, and then change those."""
    stem = "model" if kind == "safetensors" else "pytorch_model"

    def edit(path: Path) -> None:
        held = load_file(path / "model.safetensors")
        (path / "model.safetensors").unlink()
        places = {}
        for number in range(count):
            file = f"{stem}-{number + 1:05}-of-{count:05}.{kind}"
            part = {name: value for place, (name, value) in enumerate(held.items()) if place % count == number}
            (save_file if kind == "safetensors" else torch.save)(part, path / file)
            places |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        (path / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
        then(path)

    return edit


FIRST, SECOND, INDEX = (
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
)


def indexed(change: Callable[[dict[str, Any]], object]) -> Edit:
    """Change the index's file names by tensor."""

    def edit(path: Path) -> None:
        index = json.loads((path / INDEX).read_text())
        change(index["weight_map"])
        (path / INDEX).write_text(json.dumps(index))

    return edit


_unlisted = indexed(lambda places: places.pop("classifier.bias"))


def _stored_twice(path: Path) -> None:
    both_of = load_file(path / FIRST) | {"classifier.bias": torch.ones(1), "classifier.weight": torch.ones(1, 16)}
    save_file(both_of, path / FIRST)


def _whole_and_shards(path: Path) -> None:
    whole = (path / "model.safetensors").read_bytes()
    sharded("safetensors", _stored_twice)(path)
    (path / "model.safetensors").write_bytes(whole)


def _adapters_in_checkpoints(path: Path) -> None:
    for checkpoint in path.iterdir():
        (checkpoint / "config.json").unlink()
        (checkpoint / "adapter_config.json").write_text("{}")


def _emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def _file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"weights")


def _gamma_and_beta(held: dict[str, Any]) -> dict[str, Any]:
    new = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for old, other in new.items():
        held = {name.replace(old, other): value for name, value in held.items()}
    return held


def _parameters(held: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.nn.Parameter(value) for name, value in held.items()}


def _nested(held: dict[str, Any]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are a prototype
        return held | {"classifier.weight": torch.nested.nested_tensor([held["classifier.weight"]])}


class _RunsCode:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def _sparse(held: dict[str, Any]) -> dict[str, Any]:
    return held | {"classifier.weight": held["classifier.weight"].to_sparse()}


def _prefixed(prefix: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda held: {prefix + name: value for name, value in held.items()}


def _sentence_transformers_modules(*kinds: str) -> str:
    return json.dumps([{"idx": n, "type": f"sentence_transformers.models.{kind}"} for n, kind in enumerate(kinds)])


def _without_head(held: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in held.items() if not name.startswith("classifier")}


def _without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda held: {each: value for each, value in held.items() if each != name}


def _score_head(held: dict[str, Any]) -> dict[str, Any]:
    return _without_head(held) | {"score.weight": torch.ones(1, 16)}


def _phobert(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    (path / "vocab.txt").write_text("the 1\nriver 1\n")
    (path / "bpe.codes").write_text("t h 1\n")
    _edit_json(path / "tokenizer_config.json", {"tokenizer_class": "PhobertTokenizer"})


def _slow_only(path: Path) -> None:
    both(file("tokenizer.json", None), file("special_tokens_map.json", None))(path)


def _without_merges(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    (path / "vocab.json").write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4}))
    _edit_json(path / "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer"})


def _bpe(path: Path) -> None:
    """RoBERTa's tokenizer as two files: words are cut into letters, of which a few are merged."""
    letters = [*"abcdefghijklmnopqrstuvwxyz.,", "\u0120"]
    pairs = [("t", "h"), ("th", "e"), ("\u0120", "r"), ("\u0120", "i"), ("\u0120i", "s"), ("i", "n")]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters, *("".join(pair) for pair in pairs)]
    (path / "tokenizer.json").unlink()
    (path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{one} {other}\n" for one, other in pairs))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", "mask_token": "<unk>"})
    )


def _truncating(fields: dict[str, Any]) -> None:
    fields["truncation"] = {"direction": "Right", "max_length": 12, "strategy": "LongestFirst", "stride": 0}
    fields["padding"] = {
        "strategy": {"Fixed": 48},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }


def _truncating_left(fields: dict[str, Any]) -> None:
    _truncating(fields)
    fields["truncation"]["direction"] = "Left"
    fields["padding"] = None


def _another_token(fields: dict[str, Any]) -> None:
    fields["added_tokens"].append(
        {
            "id": len(vocabulary()),
            "content": "Berlin is",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    )


def _half(held: dict[str, Any]) -> dict[str, Any]:
    return {name: value.half() for name, value in held.items()}


def _meta(held: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to("meta") for name, value in held.items()}


def _tied(held: dict[str, Any]) -> dict[str, Any]:
    return held | {"cls.predictions.decoder.weight": held["bert.embeddings.word_embeddings.weight"]}


def _older_pickle(path: Path) -> None:
    held = load_file(path / "model.safetensors")
    torch.save({name: value * 0 for name, value in held.items()}, path / "pytorch_model.bin")


def _directory(path: Path) -> None:
    (path / "config.json").mkdir()


def _huge(path: Path) -> None:
    with (path / "config.json").open("r+b") as opened:
        opened.truncate(10**9)  # takes no room on the disk


def _deep() -> str:
    return "[" * 100_000 + "]" * 100_000


# -- the table


@dataclass(frozen=True, slots=True)
class Row:
    """One case: a small model, what is changed in it, and the words it is refused in; none: it scores as transformers has it.

    `load` are options without which transformers cannot load it; `state` gives it weights that it cannot find itself.
    """

    name: str
    of: str
    edit: Edit
    refused: str | None = None
    load: dict[str, Any] = field(default_factory=dict)
    state: Callable[[Path], dict[str, Any]] | None = None


CODE = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}
RUN = "raise SystemExit('code of a checkpoint was run')"
NO_LABELS = config(id2label=..., label2id=..., num_labels=...)
NO_TYPES = tokenizer_config(model_input_names=["input_ids", "attention_mask"])
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def _unprefixed(path: Path) -> dict[str, Any]:
    held = {}
    for part in path.glob("*.safetensors"):
        held |= load_file(part)
    for part in path.glob("*.bin"):
        held |= torch.load(part, weights_only=True)
    wrappers = "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_orig_mod.", "module."
    plain = {}
    for name, value in held.items():
        for wrapper in wrappers:
            name = name.replace(wrapper, "")
        plain[name.removeprefix("model.")] = value
    return plain


def _wrapped_inside(*rules: tuple[str, str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The parts of a model that match each pattern are wrapped one by one, as FSDP does it."""

    def renamed(name: str) -> str:
        for pattern, wrapper in rules:
            name = re.sub(pattern, rf"\g<0>{wrapper}.", name)
        return name

    return lambda held: {renamed(name): value for name, value in held.items()}


def same(path: Path) -> None:
    """Change nothing."""


TABLE = [
    # Trunks and sizes.
    Row("one layer", "bert of one layer", same),
    Row(
        "one token type, and a tokenizer that gives two", "bert of one token type", same, "transformers cannot compute"
    ),
    Row("heads of 5 channels", "bert with heads of 5 channels", same),
    Row("a position table of odd length", "bert of 37 positions", same),
    Row("relu", "bert with relu", same),
    Row("gelu_new", "bert with gelu_new", same),
    Row("two labels", "bert of two labels", same),
    Row("more words than the tokenizer has", "bert with more words than the tokenizer", same),
    Row("roberta", "roberta", same),
    Row("xlm-roberta", "xlm-roberta", same),
    Row("camembert", "camembert", same),
    Row("distilbert of one label", "distilbert", same),
    Row("electra with projected embeddings", "electra", same),
    # Weights as they are stored.
    Row("LayerNorm's parameters named gamma and beta", "bert", tensors(_gamma_and_beta)),
    Row(
        "tensors that nothing uses", "bert", tensors(lambda held: held.update({"cls.predictions.bias": torch.ones(9)}))
    ),
    Row("saved in FP16", "bert", both(tensors(_half), config(dtype="float16"))),
    Row(
        "saved in BF16",
        "bert",
        both(
            tensors(lambda held: {name: one.bfloat16() for name, one in held.items()}), config(torch_dtype="bfloat16")
        ),
    ),
    Row("saved in FP64", "bert", tensors(lambda held: {name: one.double() for name, one in held.items()})),
    Row("as pytorch_model.bin", "bert", pytorch_file()),
    Row("parameters in a pickle", "bert", pytorch_file(_parameters)),
    Row(
        "LayerNorm's parameters under both names",
        "bert",
        tensors(lambda held: held | {"bert.embeddings.LayerNorm.gamma": torch.ones(16)}),
        r"its old and its new name: bert\.embeddings\.LayerNorm\.gamma and bert\.embeddings\.LayerNorm\.weight; leave one",
    ),
    Row(
        "tensors that are negated when they are read",
        "bert",
        pytorch_file(lambda held: held | {"classifier.weight": torch._neg_view(held["classifier.weight"])}),
    ),
    Row(
        "a nested tensor",
        "bert",
        pytorch_file(_nested),
        "a dictionary in which 'classifier.weight' hold no tensors",
    ),
    Row(
        "a pickle of a function of the system",
        "bert",
        pytorch_file(lambda held: held | {"more": _RunsCode()}),
        r"a pickle that holds (posix|nt)\.system, not tensors alone, and reading it would run code\. Save",
    ),
    Row(
        "a pickle that torch cannot read",
        "bert",
        both(file("model.safetensors", None), file("pytorch_model.bin", b"\x80\x02\x88]R.")),
        r"cannot be read as weights \(Trying to call reduce for unrecognized function True\); it may be truncated",
    ),
    Row("a sparse tensor", "bert", pytorch_file(_sparse), r"classifier\.weight is of the layout torch\.sparse_coo"),
    Row("tied to a head of its training", "bert", pytorch_file(_tied)),
    Row("beside an older pytorch_model.bin", "bert", _older_pickle),
    Row(
        "with the buffers of old transformers",
        "bert",
        tensors(lambda held: held.update({"bert.embeddings.position_ids": torch.arange(64)[None]})),
    ),
    Row("the names of DataParallel", "bert", tensors(_prefixed("module.")), state=_unprefixed),
    Row("the names of a class with a model in it", "bert", tensors(_prefixed("model.")), state=_unprefixed),
    *(
        Row(f"names that begin with {prefix}", "bert", tensors(_prefixed(prefix)), state=_unprefixed)
        for prefix in (
            "module.model.",
            "model.module.",
            "_orig_mod.module.model.",
            "_orig_mod.",
            "module._orig_mod.",
            "_fsdp_wrapped_module.",
            "_fsdp_wrapped_module._orig_mod.model.",
        )
    ),
    Row(
        "a tensor under its plain and under its compiled name",
        "bert",
        tensors(lambda held: held | {"_orig_mod.classifier.bias": held["classifier.bias"] + 1}),
        refused=r"_orig_mod\.classifier\.bias and classifier\.bias are the same tensor of the model",
    ),
    Row("a compiled trunk", "bert", tensors(_wrapped_inside((r"^bert\.", "_orig_mod"))), state=_unprefixed),
    *(
        Row(
            f"{kind} whose layers FSDP wraps, with activation checkpointing",
            kind,
            tensors(
                _wrapped_inside(
                    (r"layer\.\d+\.", "_fsdp_wrapped_module._checkpoint_wrapped_module"), (r"^", "_fsdp_wrapped_module")
                )
            ),
            state=_unprefixed,
        )
        for kind in ("bert", "distilbert", "roberta")
    ),
    Row("in shards", "bert", sharded("safetensors")),
    Row("in one shard", "bert", sharded("safetensors", count=1)),
    Row("RoBERTa in shards", "roberta", sharded("safetensors")),
    Row("in shards that are pickles", "bert", sharded("bin")),
    Row("in shards, with a tensor that the index does not list", "bert", sharded("safetensors", _unlisted)),
    Row("in shards of wrapped names", "bert", both(tensors(_prefixed("module.")), sharded("bin")), state=_unprefixed),
    Row("in shards beside a whole file", "bert", _whole_and_shards),
    Row(
        "the names of DataParallel, and one that is not",
        "bert",
        tensors(lambda held: _prefixed("module.")(held) | {"step": torch.ones(1)}),
        r"some names that begin with the module\. of DataParallel",
    ),
    # What config.json leaves out, or says otherwise.
    Row("no number of labels", "bert", NO_LABELS, load={"num_labels": 1}),
    *(
        Row(f"{kind} with no number of labels", kind, NO_LABELS, load={"num_labels": 1})
        for kind in ("roberta", "xlm-roberta", "distilbert", "electra")
    ),
    Row("two labels, and no number of them", "bert of two labels", NO_LABELS),
    Row("names of labels by name alone", "bert", config(id2label=..., num_labels=...), load={"num_labels": 1}),
    Row("null for the labels", "bert", config(id2label=None, label2id=None), load={"num_labels": 1}),
    Row("RoBERTa without a padding token", "roberta", config(pad_token_id=...)),
    Row("RoBERTa with null for it", "roberta", config(pad_token_id=None), load={"pad_token_id": 1}),
    Row("BERT with another one", "bert", config(pad_token_id=7)),
    Row("BERT with null for it", "bert", config(pad_token_id=None)),
    Row("BERT with -1 for it", "bert", config(pad_token_id=-1)),
    Row(
        "no model_type and no architecture", "bert", config(model_type=..., architectures=...), load={"config": "Bert"}
    ),
    Row("it wants tuples returned", "bert", config(return_dict=False)),
    Row("fewer layers than the weights have", "bert", config(num_hidden_layers=1)),
    Row("distilbert with a layer_norm_eps, which it does not use", "distilbert", config(layer_norm_eps=0.1)),
    # Tokenizers.
    Row("a tokenizer that gives no token types", "bert", NO_TYPES),
    Row("one token type, and a tokenizer that gives none", "bert of one token type", NO_TYPES),
    Row("truncates on the left", "bert", tokenizer_config(truncation_side="left")),
    Row("RoBERTa truncates on the left", "roberta", tokenizer_config(truncation_side="left")),
    Row("tokenizer.json truncates on the left", "bert", tokenizer_json(_truncating_left)),
    Row("tokenizer.json truncates and pads", "bert", tokenizer_json(_truncating)),
    Row("vocab.txt alone", "bert", _slow_only),
    Row("keeps capitals", "bert", both(_slow_only, tokenizer_config(do_lower_case=False))),
    Row("no end of length", "bert", tokenizer_config(model_max_length=int(1e30))),
    Row("no end of length, as a fraction", "bert", tokenizer_config(model_max_length=1e30)),
    Row("no word of length", "bert", tokenizer_config(model_max_length=...)),
    Row("one more special token", "bert with more words than the tokenizer", tokenizer_json(_another_token)),
    Row("no post-processor for BERT", "bert", tokenizer_json(lambda fields: fields.update(post_processor=None))),
    Row("no post-processor for RoBERTa", "roberta", tokenizer_json(lambda fields: fields.update(post_processor=None))),
    Row(
        "a versioned tokenizer.json that is not there",
        "bert",
        tokenizer_config(fast_tokenizer_files=["tokenizer.4.0.0.json"]),
        r'fast_tokenizer_files = \["tokenizer.4.0.0.json"\].* \[\] or \["tokenizer.json"\] is supported',
    ),
    Row("tokenizer.json as the versions", "bert", tokenizer_config(fast_tokenizer_files=["tokenizer.json"])),
    Row(
        "a tokenizer in Python alone",
        "roberta",
        _phobert,
        "the tokenizer PhobertTokenizer is written in Python.*give a checkpoint with a tokenizer.json",
    ),
    Row("a tokenizer of more words", "bert", tokenizer_json(_another_token), "they do not belong together"),
    Row("truncates on top", "bert", tokenizer_config(truncation_side="top"), "truncation_side is 'top'; right or left"),
    Row("a length in letters", "bert", tokenizer_config(model_max_length="64"), "model_max_length is '64'; a number"),
    Row("LayerNorm without an epsilon", "bert", config(layer_norm_eps=0.0)),
    Row(
        "a lone surrogate",
        "bert",
        config(id2label={"0": "\ud800"}),
        r"config\.json is not JSON that can be read .*surr",
    ),
    Row(
        "more labels than a bundle can have",
        "bert",
        tensors(lambda held: held.update({"classifier.weight": torch.ones(70_000, 16)})),
        "the head has 70000 labels; at most 65536",
    ),
    Row("a length of nothing", "bert", tokenizer_config(model_max_length=0), "model_max_length is 0; a number"),
    Row(
        "no tokenizer",
        "bert",
        both(_slow_only, file("vocab.txt", None)),
        "no tokenizer: .*BertTokenizer lacks vocab.txt",
    ),
    Row("vocab.json and merges.txt alone", "roberta", _bpe),
    Row(
        "vocab.json and merges.txt, and no tokenizer_config.json",
        "roberta",
        both(_bpe, file("tokenizer_config.json", None)),
    ),
    Row("no merges", "roberta", _without_merges, "the tokenizer cannot be loaded"),
    Row("a broken tokenizer", "bert", file("tokenizer.json", "{}"), "the tokenizer cannot be loaded"),
    Row(
        "tokenizer.json left in Git LFS",
        "bert",
        file("tokenizer.json", POINTER),
        r"tokenizer\.json is a Git LFS pointer",
    ),
    Row("vocab.txt left in Git LFS", "bert", both(_slow_only, file("vocab.txt", POINTER)), r"vocab\.txt is a Git LFS"),
    # Custom code, which is not run.
    Row("custom code of a known architecture", "bert", both(config(auto_map=CODE), file("code.py", RUN))),
    Row(
        "custom code of a known architecture, and no model_type",
        "bert",
        both(config(auto_map=CODE, model_type=...), file("code.py", RUN)),
        load={"config": "Bert"},
    ),
    Row(
        "custom code for the tokenizer too",
        "bert",
        both(
            config(auto_map=CODE),
            tokenizer_config(auto_map={"AutoTokenizer": ["code.A", "code.B"]}),
            file("code.py", RUN),
        ),
        load={"trust_remote_code": False},
    ),
    # No cross-encoder of ours.
    Row("a head named score", "bert", tensors(_score_head), r"has a head named score \(score\.weight\), as decoders"),
    Row("no head", "bert", tensors(_without_head), "no classification head"),
    Row(
        "a head in a Dense module",
        "bert",
        both(tensors(_without_head), file("modules.json", _sentence_transformers_modules("Transformer", "Dense"))),
        "modules Transformer, Dense .*a cross-encoder whose head is a Dense module",
    ),
    Row(
        "a bi-encoder",
        "bert",
        both(tensors(_without_head), file("modules.json", _sentence_transformers_modules("Transformer", "Pooling"))),
        "is a bi-encoder",
    ),
    Row("architectures in letters", "bert", both(tensors(_without_head), config(architectures="Bert")), "no classif"),
    Row("a decoder", "bert", config(is_decoder=True), "is_decoder"),
    Row("relative positions", "bert", config(position_embedding_type="relative_key"), "relative_key"),
    Row(
        "silu",
        "bert",
        config(hidden_act="silu"),
        "'silu' is not supported; gelu, relu, gelu_new, gelu_pytorch_tanh are",
    ),
    # Not a model's directory.
    Row("a training run", "bert", _training_output, "give its newest checkpoint, .*checkpoint-1000$"),
    Row("GGUF files", "bert", both(_emptied, file("model-Q8_0.gguf", "GGUF")), "GGUF files, which llama.cpp runs"),
    Row("an empty directory", "bert", _emptied, r"has no config\.json"),
    Row("nothing", "bert", shutil.rmtree, "there is no directory"),
    Row("a file", "bert", _file_instead, "is a file; give the directory"),
    Row("no weights", "bert", file("model.safetensors", None), "has neither model.safetensors nor pytorch_model.bin"),
    Row(
        "a training run that left its config",
        "bert",
        both(_training_output, file("config.json", "{}"), file("checkpoint-best", "")),
        "has neither model.safetensors.* training run: give its newest checkpoint, .*checkpoint-1000$",
    ),
    Row(
        "a training run with two models and no checkpoints",
        "bert",
        _in_folders("best_model", "final"),
        r"has no config\.json; give the directory of a model, [^,]*/best_model or [^,]*/final$",
    ),
    Row(
        "a training run with a model and checkpoints",
        "bert",
        both(_training_output, lambda path: shutil.copytree(path / "checkpoint-500", path / "final")),
        "newest checkpoint, .*checkpoint-1000, or .*final$",
    ),
    Row(
        "a folder of sentence-transformers without its model",
        "bert",
        _in_folders("2_Dense"),
        r"has no config\.json; expected",
    ),
    Row(
        "a training run of an adapter",
        "bert",
        both(_training_output, _adapters_in_checkpoints),
        "training run: give its newest checkpoint, .*checkpoint-1000$",
    ),
    # Weights in shards.
    *(
        Row(f"an index that holds {text}", "bert", sharded("safetensors", file(INDEX, text)), f"index.json.*{said}")
        for text, said in (
            ("[]", "holds a list, not an object"),
            ("{", "is not JSON"),
            ("{}", "weight_map is None; an object of file names"),
            ('{"weight_map": []}', r"weight_map is \[\]"),
            ('{"weight_map": {}}', r"weight_map is \{\}"),
        )
    ),
    *(
        Row(
            f"an index that names {place!r}",
            "bert",
            sharded("safetensors", indexed(lambda places, place=place: places.update({"classifier.bias": place}))),
            r"says that 'classifier\.bias' is in .*; the name of a file in the same directory",
        )
        for place in (
            *("../model-1.safetensors", "/etc/model.safetensors", "model/../../x.safetensors", "model\\x.safetensors"),
            *("model-\0.safetensors", "other.safetensors", "pytorch_model.bin", "..", "", 3, None, [FIRST], {}),
        )
    ),
    Row(
        "a shard that is not there",
        "bert",
        sharded("safetensors", file(SECOND, None)),
        f"lacks 1 of the 2 files that {INDEX} names: {SECOND}; fetch",
    ),
    Row(
        "a shard left in Git LFS",
        "bert",
        sharded("safetensors", file(SECOND, POINTER)),
        f"{SECOND} is a Git LFS pointer",
    ),
    Row(
        "a shard cut short",
        "bert",
        sharded("safetensors", file(SECOND, b"\x08")),
        f"{SECOND} .*cannot be read as weights",
    ),
    Row(
        "a tensor that its shard lacks",
        "bert",
        sharded("safetensors", indexed(lambda places: places.update({"more": FIRST}))),
        f"{FIRST} lacks 1 tensor.* that {INDEX} lists: more",
    ),
    Row(
        "a tensor that is listed in the other shard",
        "bert",
        sharded("safetensors", indexed(lambda places: places.update({list(places)[-1]: FIRST}))),
        f"{FIRST} lacks 1 tensor",
    ),
    Row(
        "a tensor in two shards",
        "bert",
        sharded("safetensors", _stored_twice),
        "1 tensor.* are stored twice: classifier",
    ),
    Row(
        "a shard that is a pickle of a whole model",
        "bert",
        sharded("bin", file("pytorch_model-00002-of-00002.bin", pickle.dumps(random.Random(0)))),
        "00002-of-00002.bin",
    ),
    # Files that are broken, or something else.
    Row(
        "weights cut short",
        "bert",
        file("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      ab"),
        "cannot be read as weights",
    ),
    Row(
        "weights left in Git LFS",
        "bert",
        file("model.safetensors", POINTER),
        "LFS",
    ),
    Row("config.json left in Git LFS", "bert", file("config.json", POINTER), "git lfs pull"),
    Row(
        "a directory for weights",
        "bert",
        both(file("model.safetensors", None), lambda path: (path / "pytorch_model.bin").mkdir()),
        "neither",
    ),
    Row(
        "a whole model",
        "bert",
        _whole_model,
        "a pickle that holds .*BertForSequenceClassification, not tensors alone.*save_pretrained",
    ),
    Row(
        "weights among others",
        "bert",
        pytorch_file(lambda held: {"state_dict": held, "epoch": 3}),
        r"a dictionary in which 'state_dict'; 'epoch' hold no tensors.*save model\.state_dict",
    ),
    Row("a list of weights", "bert", pytorch_file(lambda held: list(held.values())), "holds a list, not a dictionary"),
    Row("numbers for names", "bert", pytorch_file(lambda held: dict(enumerate(held.values()))), "not a dictionary of"),
    Row(
        "a pickle that runs code",
        "bert",
        both(file("model.safetensors", None), file("pytorch_model.bin", pickle.dumps(random.Random(0)))),
        "cannot be read|pickle that holds",
    ),
    Row("weights on meta", "bert", pytorch_file(_meta), r"has no values \(device meta\)"),
    Row(
        "complex weights",
        "bert",
        tensors(lambda held: held.update({"classifier.bias": torch.ones(1, dtype=torch.complex64)})),
        "classifier.bias is torch.complex64",
    ),
    Row(
        "weights in FP8",
        "bert",
        tensors(lambda held: {name: one.to(torch.float8_e4m3fn) for name, one in held.items()}),
        "quantized already",
    ),
    Row("config.json is a list", "bert", file("config.json", "[]"), "holds a list, not an object"),
    Row("config.json is deep", "bert", file("config.json", _deep()), "is not JSON that can be read"),
    Row(
        "config.json has a number of 9,999 digits", "bert", file("config.json", '{"a": ' + "9" * 9999 + "}"), "not JSON"
    ),
    Row("config.json is a directory", "bert", both(file("config.json", None), _directory), "cannot be read"),
    Row("config.json is huge", "bert", _huge, "bytes, which no such file needs"),
    Row("config.json is no text", "bert", file("config.json", b"\xff\xfe{}"), "cannot be read"),
    # Numbers that are none.
    *(
        Row(f"hidden_size of {value!r}", "bert", config(hidden_size=value), "hidden_size is .*a whole number from 1")
        for value in ("64", -1, 0, 16.0, True, [16])
    ),
    Row("hidden_size of another model", "bert", config(hidden_size=1_000_000_000), "do not fit config.json"),
    Row("no hidden_size", "bert", config(hidden_size=...), "does not give hidden_size"),
    Row("a billion layers", "bert", config(num_hidden_layers=10**9), "says 1000000000 layers, and the weights have 2"),
    Row("heads that do not divide", "bert", config(num_attention_heads=3), "not a multiple of 3 heads"),
    Row("no heads", "bert", config(num_attention_heads=0), "num_attention_heads is 0; a whole number from 1"),
    Row("labels in letters", "bert", config(num_labels="1"), "num_labels is '1'; a whole number"),
    Row("other labels", "bert", config(id2label={"0": "a", "1": "b"}), "declares 2 labels, the head has 1"),
    Row("names of labels in a list", "bert", config(id2label=["a"]), "id2label is .*names by label number"),
    Row("an epsilon in letters", "bert", config(layer_norm_eps="1e-12"), "layer_norm_eps is '1e-12'; a number"),
    Row("a padding token beyond the positions", "roberta", config(pad_token_id=63), "no position embeddings are left"),
    Row("a negative padding token", "roberta", config(pad_token_id=-1), "pad_token_id is -1; a whole number from 0"),
    Row("dropout in letters", "bert", config(hidden_dropout_prob="none"), "config.json is refused by transformers"),
    # Tensors.
    Row("a missing tensor", "bert", tensors(_without("bert.pooler.dense.bias")), r"missing: bert\.pooler\.dense\.bias"),
    Row(
        "a misshapen one",
        "bert",
        tensors(lambda held: held.update({"bert.pooler.dense.weight": torch.ones(16, 15)})),
        r"is \[16, 15\], expected \[16, 16\]",
    ),
    Row(
        "positions of another width",
        "bert",
        tensors(lambda held: held.update({"bert.embeddings.position_embeddings.weight": torch.ones(64, 15)})),
        r"is \[64, 15\], expected \[64, 16\]",
    ),
    Row(
        "words that are no table",
        "bert",
        tensors(lambda held: held.update({"bert.embeddings.word_embeddings.weight": torch.ones(5)})),
        "expected a table",
    ),
    Row(
        "a head that is no table",
        "bert",
        tensors(lambda held: held.update({"classifier.weight": torch.tensor(1.0)})),
        "expected a table",
    ),
    *(
        Row(f"{value} in {name}", "bert", replaced(value, name), "holds NaN or Inf")
        for value in (float("nan"), float("inf"))
        for name in (
            "bert.embeddings.word_embeddings.weight",
            "bert.embeddings.position_embeddings.weight",
            "bert.embeddings.token_type_embeddings.weight",
            "bert.embeddings.LayerNorm.weight",
            "bert.encoder.layer.1.attention.self.key.bias",
            "bert.encoder.layer.1.output.LayerNorm.bias",
            "bert.pooler.dense.weight",
            "classifier.bias",
        )
    ),
    Row("Inf in FP16", "bert", both(replaced(1e30, "classifier.weight"), tensors(_half)), "holds NaN or Inf"),
]


@pytest.fixture(autouse=True, scope="module")
def few_pairs() -> Any:
    """Check the export itself on few pairs: here they are checked against transformers anyway."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "builtin_pairs", lambda max_length: PAIRS)
        yield


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_an_odd_checkpoint_scores_as_in_transformers_or_is_refused(
    row: Row, originals: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    shutil.copytree(originals(row.of), path)
    row.edit(path)
    if row.refused is not None:
        with pytest.raises(CheckpointError, match=row.refused):
            export_bundle(Checkpoint.read(path), tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()
        return
    bundle, _ = export_bundle(Checkpoint.read(path), tmp_path / "bundle")
    expected = _scores_of_transformers(path, row)
    for backend in ("auto", "onnxruntime"):
        with CrossEncoder(bundle.path, backend=backend, device="cpu") as model:
            np.testing.assert_allclose(model.logits(PAIRS), expected, rtol=0, atol=1e-4)
    assert len({*expected[:, 0].tolist()}) == len(PAIRS), "the pairs differ"


def _scores_of_transformers(path: Path, row: Row) -> np.ndarray[Any, Any]:
    load = dict(row.load)
    if "config" in load:  # the kind that its config.json does not name
        load["config"] = getattr(transformers, f"{load['config']}Config")(
            **json.loads((path / "config.json").read_text())
        )
    model_class = transformers.AutoModelForSequenceClassification
    if row.state is not None:
        config = transformers.AutoConfig.from_pretrained(path)
        load |= {"config": config, "state_dict": row.state(path)}
        model_class = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    model = model_class.from_pretrained(None if row.state else path, dtype=torch.float32, **load).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        path, **({"config": load["config"]} if "config" in load else {})
    )
    positions = model.config.max_position_embeddings
    if "roberta" in row.of or row.of == "camembert":
        positions -= model.config.pad_token_id + 1
    most = min(tokenizer.model_max_length, positions)
    rows = []
    with torch.inference_mode():
        for query, passage in PAIRS:
            encoded = tokenizer([query], [passage], truncation="longest_first", max_length=most, return_tensors="pt")
            rows.append(model(**encoded, return_dict=True).logits[0].numpy())
    return np.array(rows)


ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 10**6, 10**9, 2**31, 2**63, 10**30, 0.0, 0.5, -1.5, 1e-12, 1e30,
    float("nan"), float("inf"), "", "0", "64", "gelu", "none", "\ud800", "x" * 10_000, [], [1], ["a"], [[]], {}, {"0": "a"},
    {"0": 0, "1": 1}, {"a": {"b": [None]}},
)  # fmt: skip
MORE_CONFIG = (
    "activation", "chunk_size_feed_forward", "dtype", "embedding_size", "layer_norm_eps", "num_labels", "problem_type",
    "pruned_heads", "quantization_config", "return_dict", "sbert_ce_default_activation_function", "sentence_transformers",
    "output_attentions", "torch_dtype", "attn_implementation", "_attn_implementation", "position_embedding_type", "id2label",
    "label2id", "tokenizer_class", "is_encoder_decoder", "auto_map", "name_or_path", "self", "cls", "",
)  # fmt: skip
MORE_TOKENIZER_CONFIG = (
    "truncation_side", "padding_side", "model_input_names", "tokenizer_class", "auto_map", "add_bos_token",
    "extra_special_tokens", "added_tokens_decoder", "sep_token", "pad_token", "unk_token", "do_lower_case", "max_length",
    "stride", "chat_template", "self",
)  # fmt: skip


def mutated(path: Path, chance: random.Random) -> None:
    """Give a few fields of one of the JSON files odd values."""
    kind = chance.choice(["config", "tokenizer_config", "tokenizer"])
    if kind == "tokenizer":
        tokenizer_json(lambda fields: _odd_place(fields, chance))(path)
        return
    name, more = f"{kind}.json", MORE_CONFIG if kind == "config" else MORE_TOKENIZER_CONFIG
    known = [*json.loads((path / name).read_text()), *more]
    _edit_json(
        path / name, {key: chance.choice(ODD_VALUES) for key in chance.sample(known, k=chance.choice([1, 1, 2, 3]))}
    )


def _odd_place(fields: Any, chance: random.Random) -> None:
    """Put an odd value somewhere into nested JSON, or take something out."""
    key = chance.choice([*fields] if isinstance(fields, dict) else range(len(fields)))
    if fields[key] and isinstance(fields[key], (dict, list)) and chance.random() < 0.7:
        _odd_place(fields[key], chance)
    elif chance.random() < 0.2:
        del fields[key]
    else:
        fields[key] = chance.choice(ODD_VALUES)


@pytest.mark.parametrize("seed", range(60))
def test_odd_fields_are_refused_in_words_or_do_no_harm(
    seed: int, originals: Callable[[str], Path], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "checkpoint"
    shutil.copytree(originals(chance.choice(["bert", "roberta", "distilbert", "electra"])), path)
    mutated(path, chance)
    try:
        checkpoint = Checkpoint.read(path)
        reference = Reference(checkpoint)
        expected = reference.logits(PAIRS[:2], max_length=checkpoint.max_length)
        manifest_of(checkpoint, {"id": "odd"}).to_json()
    except CrossrtError as error:
        assert str(path) in str(error), "it names the checkpoint"  # noqa: PT017
    else:
        assert np.isfinite(expected).all()


@pytest.mark.parametrize("seed", range(30))
def test_odd_indexes_are_refused_in_words_or_do_no_harm(
    seed: int, originals: Callable[[str], Path], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "checkpoint"
    shutil.copytree(originals("bert"), path)
    sharded("safetensors")(path)
    fields = json.loads((path / INDEX).read_text())
    _odd_place(fields, chance)
    (path / INDEX).write_text(json.dumps(fields))
    try:
        graph_of(Checkpoint.read(path))
    except CheckpointError as error:
        assert str(path) in str(error), "it names the checkpoint"  # noqa: PT017


@pytest.mark.parametrize("seed", range(40))
def test_odd_tensors_are_refused_in_words_or_left_out(
    seed: int, originals: Callable[[str], Path], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "checkpoint"
    shutil.copytree(originals(chance.choice(["bert", "roberta", "distilbert", "electra"])), path)
    held = load_file(path / "model.safetensors")
    name = chance.choice(list(held))
    if chance.random() < 0.2:
        del held[name]
    else:
        shape = [chance.choice([0, 1, 2, 16, 17, 24]) for _ in range(chance.randrange(4))]
        kind = chance.choice(["float32", "float16", "int64", "int8", "bool", "complex64", "uint8", "float8_e5m2"])
        held[chance.choice([name, f"{name}.other"])] = torch.zeros(shape).to(getattr(torch, kind))
    save_file(held, path / "model.safetensors")
    try:
        graph_of(Checkpoint.read(path))
    except CheckpointError as error:
        assert str(path) in str(error), "it names the checkpoint"  # noqa: PT017


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_has_a_gradient_at_all_that_is_quantized(kind: str, originals: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint.read(originals(kind))
    if not can_be_native(checkpoint):
        pytest.skip("the native kernels do not know it")
    pairs = [("a", "b c d")] * 2
    try:
        expected = Reference(checkpoint).logits(pairs, max_length=16)
    except CheckpointError:
        pytest.skip("nor does transformers compute it")
    found = score_gradients(checkpoint, gradient_sites(checkpoint), pairs, max_length=16)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)
    assert found.samples
    for sample in found.samples.values():
        assert torch.isfinite(sample.gradients).all()
        assert sample.gradients[sample.is_cls == 1].abs().sum() > 0


@pytest.mark.parametrize("name", ["vocab", "vocab_file", "tokenizer_file"])
def test_a_tokenizer_of_another_place_is_not_read(name: str, originals: Callable[[str], Path], tmp_path: Path) -> None:
    """Such a path is that of the machine which saved the tokenizer, or a file that the publisher wants to see."""
    path = tmp_path / "model"
    shutil.copytree(originals("bert"), path)
    expected = tokenizer_of(Checkpoint.read(path)).get_vocab()
    (path / "tokenizer.json").unlink()
    other = tmp_path / "elsewhere/any"
    other.parent.mkdir()
    if name == "tokenizer_file":
        shutil.copyfile(originals("bert") / "tokenizer.json", other)
        other.write_text(other.read_text().replace('"river"', '"secret"'))
    else:
        other.write_text((path / "vocab.txt").read_text().replace("river", "secret"))
    tokenizer_config(**{name: str(other)})(path)
    assert tokenizer_of(Checkpoint.read(path)).get_vocab() == expected
