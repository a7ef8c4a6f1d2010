"""The reference of the parity check: the checkpoint in PyTorch, FP32, evaluation mode, its own tokenizer.

Stock heads are loaded by transformers itself, from the files, so that nothing of our reading is shared with what it
judges. The two heads that transformers has no class for are its trunk with the checkpoint's linear layer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from tqdm import tqdm

from ..engine.errors import CheckpointError
from .checkpoint import Checkpoint
from .heads import Head

ROWS = 16  # pairs of one length that are computed together
_STOCK = {
    "bert": "BertForSequenceClassification",
    "electra": "ElectraForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
    "xlm-roberta": "XLMRobertaForSequenceClassification",
    "distilbert": "DistilBertForSequenceClassification",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What PyTorch makes of pairs: the token ids of each, and raw `logits`, float32 [n, labels]."""

    ids: tuple[list[int], ...]
    logits: npt.NDArray[np.float32]


class Reference:
    """PyTorch's logits for pairs of texts. Each is tokenized alone and computed beside pairs of its own length, without padding.

    `names` are the inputs that the model takes of those that its tokenizer gives.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = config_of(checkpoint)
        self.tokenizer = tokenizer_of(checkpoint, self.config)
        self.model = _model(checkpoint, self.config)
        self.names = {"input_ids", "attention_mask"} | ({"token_type_ids"} if checkpoint.token_types else set())

    def logits(
        self, pairs: Sequence[tuple[str, str]], *, max_length: int, progress: bool = False
    ) -> npt.NDArray[np.float32]:
        """Return raw logits, float32 [n, labels]."""
        return self.expected(pairs, max_length=max_length, progress=progress).logits

    def expected(self, pairs: Sequence[tuple[str, str]], *, max_length: int, progress: bool = False) -> Expected:
        """Return raw logits and token ids, truncated as transformers does it."""
        encoded = [self._encoded(pair, max_length) for pair in pairs]
        by_length: dict[int, list[int]] = {}
        for row, each in enumerate(encoded):
            by_length.setdefault(len(each["input_ids"]), []).append(row)
        logits = np.zeros((len(pairs), self.checkpoint.labels), dtype=np.float32)
        with (
            torch.inference_mode(),
            tqdm(total=len(pairs), desc="PyTorch reference", unit="pair", disable=not progress) as bar,
        ):
            for same in by_length.values():
                for start in range(0, len(same), ROWS):
                    rows = same[start : start + ROWS]
                    batch = {
                        name: torch.tensor([encoded[row][name] for row in rows])
                        for name in encoded[rows[0]]
                        if name in self.names
                    }
                    logits[rows] = self.model(batch).float().numpy()
                    bar.update(len(rows))
        return Expected(tuple(each["input_ids"] for each in encoded), logits)

    def _encoded(self, pair: tuple[str, str], max_length: int) -> dict[str, list[int]]:
        # Lists of one: given two bare strings, transformers takes an empty passage for no passage at all.
        encoded = self.tokenizer([pair[0]], [pair[1]], truncation="longest_first", max_length=max_length)
        return {name: list(ids[0]) for name, ids in encoded.items()}


def config_of(checkpoint: Checkpoint) -> Any:
    """Return the transformers configuration, also for configs that lack a model_type or dimensions."""
    fields = dict(checkpoint.config)
    kind = fields.pop("model_type", None)
    known = kind if kind in _STOCK else checkpoint.layout.model_type
    if checkpoint.head is Head.BERT_CAT:
        sizes = checkpoint.dimensions
        return transformers.DistilBertConfig(
            dim=sizes.hidden,
            n_layers=sizes.layers,
            n_heads=sizes.heads,
            hidden_dim=sizes.intermediate,
            vocab_size=sizes.vocab,
            max_position_embeddings=sizes.positions,
        )
    # The dtype it was saved in must not decide what the reference computes in.
    fields = {name: value for name, value in fields.items() if name not in ("dtype", "torch_dtype")}
    return transformers.AutoConfig.for_model(known, **fields)


def tokenizer_of(checkpoint: Checkpoint, config: Any = None) -> Any:
    """Return the checkpoint's tokenizer by transformers. Raises CheckpointError when its files are missing or broken."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            checkpoint.path, config=config if config is not None else config_of(checkpoint), local_files_only=True
        )
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "it needs tokenizer.json or vocab.txt"
        ) from error
    if len(tokenizer) > checkpoint.dimensions.vocab:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer has {len(tokenizer)} tokens and the model {checkpoint.dimensions.vocab}; "
            "they do not belong together"
        )
    return tokenizer


class _StockModel(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, encoded: dict[str, Any]) -> Any:
        return self.model(**encoded).logits


class _TrunkAndLinear(torch.nn.Module):
    """A bare trunk whose `[CLS]` goes through one linear layer."""

    def __init__(self, trunk: Any, weight: Any, bias: Any) -> None:
        super().__init__()
        self.trunk = trunk
        self.weight, self.bias = weight.float(), bias.float()

    def forward(self, encoded: dict[str, Any]) -> Any:
        cls = self.trunk(**encoded).last_hidden_state[:, 0]
        return torch.nn.functional.linear(cls, self.weight, self.bias)


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


def _model(checkpoint: Checkpoint, config: Any) -> torch.nn.Module:
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
        return _TrunkAndLinear(trunk, tensors[f"{linear}.weight"], tensors[f"{linear}.bias"]).eval()
    stock = getattr(transformers, _STOCK[config.model_type])
    with _without_loading_bar():
        model, loading = stock.from_pretrained(
            checkpoint.path, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    if loading["missing_keys"]:
        raise CheckpointError(
            f"{checkpoint.path}: transformers gave random weights to {', '.join(sorted(loading['missing_keys'])[:5])}"
        )
    return _StockModel(model).eval()
