"""Reads a checkpoint's configuration and tokenizer with transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from ...engine.bundle.manifest import TOKENIZER
from ...engine.errors import CheckpointError, CrossrtError
from ...engine.process.telemetry import telemetry_off
from .checkpoint import Checkpoint
from .files import check_no_pointer, first_line, read_json
from .heads import Head

with telemetry_off():
    import transformers

NOT_FROM_CONFIG = dict.fromkeys(("vocab", "merges", "vocab_file", "merges_file", "spm_file", "tokenizer_file"))
"""Arguments of tokenizers that name files. transformers takes them from tokenizer_config.json, before 5.24 all of them. There
they can be any path, such as one on the machine that saved the tokenizer. None makes it use the checkpoint's own files."""


def config_of(checkpoint: Checkpoint) -> Any:
    """Return the transformers configuration, also if config.json lacks a model_type, dimensions or the number of labels.

    Raises CheckpointError if transformers rejects the content of config.json.
    """
    # Fields that are left out. The reference computes in FP32, whatever dtype was saved. An attention kernel named in the config
    # is not used, because transformers before 5.3 may fetch it from the hub and run it (CVE-2026-4372). `return_dict` is set by
    # the caller. Code of the checkpoint (auto_map) is not run.
    left = (
        "model_type",
        "auto_map",
        "dtype",
        "torch_dtype",
        "return_dict",
        "attn_implementation",
        "experts_implementation",
    )
    fields = {name: value for name, value in checkpoint.config.items() if name not in left and not name.startswith("_")}
    kind = checkpoint.config.get("model_type")
    with errors_in_words(checkpoint, "config.json is refused by transformers"):
        if checkpoint.head is Head.BERT_CAT:
            # transformers' defaults are the dimensions of distilbert-base-uncased, on which such a model is based.
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
    """Load the checkpoint's tokenizer with transformers.

    Raises CheckpointError when its files are missing or broken, when it is written in Python, and when it has more tokens than
    the model.
    """
    read_json(checkpoint.path / TOKENIZER, missing={})  # only for its error messages
    _check_sentencepiece(checkpoint)
    config = config if config is not None else config_of(checkpoint)
    with errors_in_words(
        checkpoint, "the tokenizer cannot be loaded; it needs tokenizer.json, vocab.txt, or vocab.json and merges.txt"
    ):
        # Without trust_remote_code=False, transformers asks on the terminal whether to run remote code.
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            checkpoint.path, config=config, local_files_only=True, trust_remote_code=False, **NOT_FROM_CONFIG
        )
    # If the files are missing, transformers creates a tokenizer with only the special tokens, to which every word is unknown.
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


def _check_sentencepiece(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if there is only a SentencePiece model and the package that reads it is not installed."""
    pieces = sorted(file.name for file in checkpoint.path.glob("*.model"))
    if not pieces or (checkpoint.path / TOKENIZER).is_file() or find_spec("sentencepiece") is not None:
        return
    raise CheckpointError(
        f"{checkpoint.path}: the tokenizer is {pieces[0]} alone, without {TOKENIZER}, and transformers reads it with the "
        f"packages sentencepiece and protobuf: pip install sentencepiece protobuf; or give a checkpoint with {TOKENIZER}"
    )


def completed_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return config.json, completed for other libraries with the model_type and dimensions that transformers assumes."""
    config = config_of(checkpoint)
    fields = dict(checkpoint.config)
    if checkpoint.head is Head.BERT_CAT:
        fields |= config.to_diff_dict()
    return fields | {"model_type": config.model_type, "max_position_embeddings": config.max_position_embeddings}


def special_tokens_of(tokenizer: Any) -> dict[str, str]:
    """Return a tokenizer's special tokens (cls_token, sep_token and so on) as strings."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items() if name.endswith("_token")}


@contextmanager
def errors_in_words(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Turn any error of transformers and PyTorch into a CheckpointError that begins with `what`."""
    try:
        yield
    except CrossrtError:
        raise
    except BaseException as error:  # the libraries raise many types, from TypeError to those of huggingface_hub
        # A Rust panic, such as one in the package tokenizers, is raised as a class that derives directly from BaseException and
        # cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{checkpoint.path}: {what} ({first_line(error)})") from error
