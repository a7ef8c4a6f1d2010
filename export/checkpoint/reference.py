"""The reference of the parity check: the checkpoint in PyTorch, FP32, evaluation mode, its own tokenizer.

Stock heads are loaded by transformers itself, from the files, and the small files are read here once more, so that nothing
of our reading is shared with what it judges. The two heads that transformers has no class for are its trunk with the
checkpoint's linear layer.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from ...engine.bundle.manifest import TOKENIZER
from ...engine.errors import CheckpointError, CrossrtError
from ...engine.process.telemetry import telemetry_off
from .checkpoint import Checkpoint
from .files import check_no_pointer, first_line, read_json
from .heads import Head

with telemetry_off():
    import transformers

ROWS = 16  # pairs of one length that are computed together


@dataclass(frozen=True, slots=True)
class Expected:
    """What PyTorch makes of pairs: the token ids of each, and raw `logits`, float32 [n, labels]."""

    ids: tuple[list[int], ...]
    logits: npt.NDArray[np.float32]


class Reference:
    """PyTorch's logits for pairs of texts. Each is tokenized alone and computed beside pairs of its own length, without padding.

    The model is given all that its tokenizer returns, but for what its class does not take, and the checkpoint's default
    prompt comes before each query, as sentence-transformers puts it there.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = config_of(checkpoint)
        self.tokenizer = tokenizer_of(checkpoint, self.config)
        with _errors_in_words(checkpoint, "transformers cannot load this model"):
            self.model = _model(checkpoint, self.config)
        self.prompt = _default_prompt(checkpoint.path)

    def logits(
        self, pairs: Sequence[tuple[str, str]], *, max_length: int, progress: bool = False
    ) -> npt.NDArray[np.float32]:
        """Return raw logits, float32 [n, labels]."""
        return self.expected(pairs, max_length=max_length, progress=progress).logits

    def expected(self, pairs: Sequence[tuple[str, str]], *, max_length: int, progress: bool = False) -> Expected:
        """Return raw logits and token ids, truncated as transformers does it."""
        with _errors_in_words(self.checkpoint, "the tokenizer cannot be used"):
            encoded = [self._encoded(pair, max_length) for pair in pairs]
        by_length: dict[int, list[int]] = {}
        for row, each in enumerate(encoded):
            by_length.setdefault(len(each["input_ids"]), []).append(row)
        logits: list[npt.NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(pairs)
        with (
            _errors_in_words(self.checkpoint, "transformers cannot compute this model"),
            torch.inference_mode(),
            tqdm(total=len(pairs), desc="PyTorch reference", unit="pair", disable=not progress) as bar,
        ):
            for same in by_length.values():
                for start in range(0, len(same), ROWS):
                    rows = same[start : start + ROWS]
                    batch = {
                        name: torch.tensor([encoded[row][name] for row in rows])
                        for name in encoded[rows[0]]
                        if name in self.model.takes
                    }
                    for row, each in zip(rows, self._computed(batch), strict=True):
                        logits[row] = each
                    bar.update(len(rows))
        stacked = np.stack(logits) if pairs else np.zeros((0, self.checkpoint.labels), dtype=np.float32)
        return Expected(tuple(each["input_ids"] for each in encoded), stacked)

    def _computed(self, batch: dict[str, Any]) -> npt.NDArray[np.float32]:
        try:
            return np.asarray(self.model(batch).float().numpy())
        except IndexError as error:  # of an embedding table
            largest = ", ".join(f"{name} up to {int(values.max())}" for name, values in batch.items())
            raise CheckpointError(
                f"{self.checkpoint.path}: the tokenizer gives {largest}, for some of which the model has no embedding; "
                "transformers cannot compute it either. Where the token types are too many, set model_input_names in "
                'tokenizer_config.json to ["input_ids", "attention_mask"]'
            ) from error

    def _encoded(self, pair: tuple[str, str], max_length: int) -> dict[str, list[int]]:
        # Lists of one: given two bare strings, transformers takes an empty passage for no passage at all.
        encoded = self.tokenizer([self.prompt + pair[0]], [pair[1]], truncation="longest_first", max_length=max_length)
        return {name: list(ids[0]) for name, ids in encoded.items()}


def config_of(checkpoint: Checkpoint) -> Any:
    """Return the transformers configuration, also for configs that lack a model_type, dimensions or the number of labels.

    Raises CheckpointError where transformers refuses what config.json says.
    """
    # The dtype it was saved in must not decide what the reference computes in, nor an attention kernel how: transformers
    # before 5.3 may fetch such a kernel from the hub and run it (CVE-2026-4372). Outputs are taken by name.
    left = ("model_type", "dtype", "torch_dtype", "return_dict", "attn_implementation", "experts_implementation")
    fields = {name: value for name, value in checkpoint.config.items() if name not in left and not name.startswith("_")}
    kind = checkpoint.config.get("model_type")
    with _errors_in_words(checkpoint, "config.json is refused by transformers"):
        if checkpoint.head is Head.BERT_CAT:
            # What its config does not give, transformers takes from distilbert-base-uncased, which the model was made of.
            if "n_layers" not in fields:
                names = [name.split(".layer.")[1] for name in checkpoint.original_tensors() if ".layer." in name]
                fields["n_layers"] = 1 + max(int(name.split(".")[0]) for name in names)
            return transformers.DistilBertConfig(**fields)
        if not fields.get("num_labels") and not fields.get("id2label"):
            fields["num_labels"] = checkpoint.labels  # transformers assumes two
        if fields.get("pad_token_id") is None:  # transformers' RoBERTa cannot compute without one
            fields["pad_token_id"] = checkpoint.pad_token_id
        known = kind if isinstance(kind, str) and kind in transformers.CONFIG_MAPPING else checkpoint.layout.model_type
        return transformers.AutoConfig.for_model(known, **fields)


def tokenizer_of(checkpoint: Checkpoint, config: Any = None) -> Any:
    """Return the checkpoint's tokenizer by transformers. Raises CheckpointError when its files are missing or broken."""
    read_json(checkpoint.path / TOKENIZER, missing={})  # whose errors are in words
    config = config if config is not None else config_of(checkpoint)
    with _errors_in_words(checkpoint, "the tokenizer cannot be loaded; it needs tokenizer.json or vocab.txt"):
        # Without trust_remote_code=False transformers asks whoever sits before the terminal.
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            checkpoint.path, config=config, local_files_only=True, trust_remote_code=False
        )
    # Without its files transformers makes a tokenizer of the special tokens alone, to which every word is unknown.
    files = dict(tokenizer.vocab_files_names)
    whole = files.pop("tokenizer_file", TOKENIZER)
    missing = sorted(name for name in files.values() if not (checkpoint.path / name).is_file())
    for file in (checkpoint.path / name for name in files.values() if name not in missing):
        with file.open("rb") as opened:
            check_no_pointer(file, opened.read(24))
    if not (checkpoint.path / whole).is_file() and (missing or not files):
        raise CheckpointError(
            f"{checkpoint.path} has no tokenizer: there is no {whole}"
            + (f", and {type(tokenizer).__name__} lacks {', '.join(missing)}" if missing else "")
        )
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer {type(tokenizer).__name__} is written in Python, and crossrt runs those that "
            "the package tokenizers can: give a checkpoint with a tokenizer.json"
        )
    if len(tokenizer) > checkpoint.dimensions.vocab:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer has {len(tokenizer)} tokens and the model {checkpoint.dimensions.vocab}; "
            "they do not belong together"
        )
    return tokenizer


def activation_of(checkpoint: Checkpoint) -> Callable[[Any], Any]:
    """Return torch's function that makes scores of a checkpoint's logits, where sentence-transformers 6 looks for it.

    That is what the caller chose, or else the class that the files name, or a sigmoid for one label and nothing for more. A
    model that sentence-transformers cannot load has none.
    """
    if checkpoint.chosen_activation is not None:
        chosen: Callable[[Any], Any] = {
            "identity": torch.nn.Identity(),
            "sigmoid": torch.nn.Sigmoid(),
            "softmax": torch.nn.Softmax(dim=-1),
            "tanh": torch.nn.Tanh(),
        }[checkpoint.chosen_activation]
        return chosen
    config = _json(checkpoint.path / "config.json")
    in_config = (config.get("sentence_transformers") or {}).get("activation_fn", ...)
    if in_config is ...:
        in_config = config.get("sbert_ce_default_activation_function")
    for place in (_sentence_transformers_config(checkpoint.path).get("activation_fn"), in_config):
        if isinstance(place, str) and place.startswith("torch."):
            module, _, name = place.rpartition(".")
            kind = getattr(import_module(module), name)
            return kind(dim=-1) if name == "Softmax" else kind()  # type: ignore[no-any-return]
    own_class = checkpoint.head is Head.BERT_CAT
    return torch.nn.Sigmoid() if checkpoint.labels == 1 and not own_class else torch.nn.Identity()


def _default_prompt(path: Path) -> str:
    saved = _sentence_transformers_config(path)
    return (saved.get("prompts") or {}).get(saved.get("default_prompt_name")) or ""


def _sentence_transformers_config(path: Path) -> dict[str, Any]:
    """What sentence-transformers reads of its own file: nothing without a modules.json, or of another kind of model."""
    saved = _json(path / "config_sentence_transformers.json")
    read = (path / "modules.json").is_file() and saved.get("model_type") == "CrossEncoder"
    return saved if read else {}


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def completed_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return config.json with the model_type and the dimensions that transformers takes it to have, for other readers."""
    config = config_of(checkpoint)
    fields = dict(checkpoint.config)
    if checkpoint.head is Head.BERT_CAT:
        fields |= config.to_diff_dict()
    return fields | {"model_type": config.model_type, "max_position_embeddings": config.max_position_embeddings}


def special_tokens_of(tokenizer: Any) -> dict[str, str]:
    """Return a tokenizer's cls_token, sep_token, ... as strings."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items() if name.endswith("_token")}


class _StockModel(torch.nn.Module):
    """A model of transformers. `takes` are the names of what its forward declares."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.takes = frozenset(inspect.signature(model.forward).parameters)

    def forward(self, encoded: dict[str, Any]) -> Any:
        return self.model(**encoded, return_dict=True).logits


class _TrunkAndLinear(torch.nn.Module):
    """A bare trunk whose `[CLS]` goes through one linear layer."""

    def __init__(self, trunk: Any, weight: Any, bias: Any) -> None:
        super().__init__()
        self.trunk = trunk
        self.takes = frozenset(inspect.signature(trunk.forward).parameters)
        self.weight, self.bias = weight.float(), bias.float()

    def forward(self, encoded: dict[str, Any]) -> Any:
        cls = self.trunk(**encoded).last_hidden_state[:, 0]
        return torch.nn.functional.linear(cls, self.weight, self.bias)


@contextmanager
def _errors_in_words(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Turn whatever transformers and PyTorch raise into a CheckpointError."""
    try:
        yield
    except CrossrtError:
        raise
    except BaseException as error:  # of many kinds, from TypeError to those of huggingface_hub
        # A panic in Rust, as in the package tokenizers, is an error of a class that is no Exception and cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{checkpoint.path}: {what} ({first_line(error)})") from error


@contextmanager
def _without_loading_bar() -> Iterator[None]:
    log: Any = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()  # the names of unused tensors are reported by Checkpoint.leftover
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()


def _model(checkpoint: Checkpoint, config: Any) -> _StockModel | _TrunkAndLinear:
    if checkpoint.head in (Head.ELECTRA_PLAIN, Head.BERT_CAT):
        linear = "classifier.out_proj" if checkpoint.head is Head.ELECTRA_PLAIN else "_classification_layer"
        trunk = (
            transformers.ElectraModel(config)
            if checkpoint.head is Head.ELECTRA_PLAIN
            else transformers.DistilBertModel(config)
        )
        tensors = checkpoint.original_tensors()
        prefix = checkpoint.layout.prefix
        state = {name.removeprefix(prefix): value.float() for name, value in tensors.items() if name.startswith(prefix)}
        missing = [
            name for name in trunk.load_state_dict(state, strict=False).missing_keys if "position_ids" not in name
        ]
        if missing:
            raise CheckpointError(f"{checkpoint.path}: the reference lacks the tensors {', '.join(missing[:5])}")
        made = _TrunkAndLinear(trunk, tensors[f"{linear}.weight"], tensors[f"{linear}.bias"])
        made.eval()
        return made
    stock: Any = transformers.AutoModelForSequenceClassification
    # transformers does not know the names that DataParallel gives, and AutoModel takes no weights without a path.
    source: Any = checkpoint.path
    weights: dict[str, Any] = {}
    if checkpoint.wrapped:
        stock = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        source, weights = None, {"state_dict": checkpoint.original_tensors()}
    with _without_loading_bar():
        model, loading = stock.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            **weights,
        )
    if loading["missing_keys"]:
        raise CheckpointError(
            f"{checkpoint.path}: transformers gave random weights to {', '.join(sorted(loading['missing_keys'])[:5])}"
        )
    model.eval()
    return _StockModel(model)
