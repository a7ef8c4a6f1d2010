"""`TokenizerFiles`: the tokenizer that transformers 5 builds from a directory, built without transformers.

BERT's class rebuilds the tokenizer from the vocabulary and tokenizer_config.json, and ignores the normalizer of tokenizer.json.
The generic class uses tokenizer.json as it is. Both are reproduced here. The classes of RoBERTa and XLM-R rebuild their
tokenizers too. Their tokenizer.json is used if it agrees with tokenizer_config.json, and refused if it does not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from ...engine.bundle.manifest import TOKENIZER
from ...engine.errors import CheckpointError
from ...engine.text.pair_tokenizer import without_truncation_and_padding
from ..checkpoint.files import read_json

BERT = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "LayoutLMTokenizer")
"""Classes that are rebuilt with BERT's normalizer, pre-tokenizer and template."""
BERT_MODELS = ("bert", "distilbert", "electra", "ernie", "layoutlm", "megatron-bert", "mobilebert", "squeezebert")
"""Values of model_type that use BERT's class if no class is named."""
PREFIX_SPACE = {"RobertaTokenizer": False, "XLMRobertaTokenizer": True, "CamembertTokenizer": True}
"""The default of `add_prefix_space` in classes that rebuild their tokenizer."""
CLASS_OF_MODEL = {
    **dict.fromkeys(BERT_MODELS, "BertTokenizer"),
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
}
WITH_TYPES = (*BERT, "DebertaTokenizer", "DebertaV2Tokenizer", "ConvBertTokenizer", "FunnelTokenizer")
"""Classes that return token types unless `model_input_names` says otherwise. The exception among them is DistilBERT's."""
PYTHON = ("BertJapaneseTokenizer", "PhobertTokenizer", "BertweetTokenizer", "FlaubertTokenizer", "XLMTokenizer")
SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
"""BERT's special tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """A tokenizer as described by the files of a directory.

    `json` is a tokenizer.json without truncation and padding. `token_types` says whether transformers would pass token types to
    the model. `name` is the class with which other libraries open the tokenizer. `special_tokens` are cls_token, sep_token and so
    on. `config` is tokenizer_config.json.
    """

    json: str
    name: str
    token_types: bool
    special_tokens: Mapping[str, str]
    config: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path, model_config: Mapping[str, Any]) -> "TokenizerFiles":
        """Read a directory's tokenizer. Raises CheckpointError, naming the file or setting, if it cannot be reproduced."""
        config = read_json(directory / "tokenizer_config.json", missing={})
        name = config.get("tokenizer_class") or model_config.get("tokenizer_class")
        name = str(name or CLASS_OF_MODEL.get(str(model_config.get("model_type")), "PreTrainedTokenizer"))
        name = name.removesuffix("Fast")
        if name in PYTHON:
            raise CheckpointError(
                f"{directory}: {name} is written in Python and has no tokenizer.json; crossrt runs tokenizers of the library "
                "tokenizers alone"
            )
        settings = dict(config)
        if "added_tokens_decoder" not in config:  # as in transformers: the newer setting replaces this older file
            settings |= read_json(directory / "special_tokens_map.json", missing={})
        special = {
            key: _text(value)
            for key, value in settings.items()
            if key.endswith("_token") and isinstance(value, str | dict)
        }
        saved = _saved(directory)
        if name in BERT:
            special = SPECIAL | special
            tokenizer = _bert(directory, settings, special, saved)
        elif saved is None:
            raise CheckpointError(
                f"{directory} has no tokenizer.json, and {name} cannot be built without transformers; save it there with: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        else:
            tokenizer = _as_saved(directory, name, settings, special, saved)
        size, vocabulary = tokenizer.get_vocab_size(), model_config.get("vocab_size")
        if isinstance(vocabulary, int) and size > vocabulary:
            raise CheckpointError(
                f"{directory}: the tokenizer has {size} tokens and the model {vocabulary}; they do not belong together"
            )
        given = config.get("model_input_names")
        default = name in WITH_TYPES and name != "DistilBertTokenizer"
        return cls(
            json=without_truncation_and_padding(tokenizer.to_str()),
            name=name,
            token_types="token_type_ids" in given if isinstance(given, list) else default,
            special_tokens=special,
            config=config,
        )

    def without_types(self) -> str:
        """Return `json` with a template that gives every token the type 0, for models without the input `token_type_ids`.

        Raises CheckpointError for an unknown kind of post-processor.
        """
        fields = json.loads(self.json)
        fields["post_processor"] = _without_types(fields["post_processor"])
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _saved(directory: Path) -> dict[str, Any] | None:
    if not (directory / TOKENIZER).is_file():
        return None
    return read_json(directory / TOKENIZER)


def _bert(
    directory: Path, settings: Mapping[str, Any], special: Mapping[str, str], saved: Mapping[str, Any] | None
) -> Tokenizer:
    try:
        if saved is not None:
            model = saved["model"]
            vocabulary = model["vocab"]
            if not isinstance(vocabulary, dict) or model.get("type", "WordPiece") != "WordPiece":
                raise CheckpointError(
                    f"{directory}: tokenizer.json holds a {model.get('type')} model, and BERT's class takes WordPiece; name the "
                    "tokenizer's own class as tokenizer_class in tokenizer_config.json"
                )
            tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=special["unk_token"]))
        elif (directory / "vocab.txt").is_file():
            tokenizer = Tokenizer(WordPiece.from_file(str(directory / "vocab.txt"), unk_token=special["unk_token"]))
        else:
            raise CheckpointError(f"{directory} has neither tokenizer.json nor vocab.txt")
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
            lowercase=settings.get("do_lower_case", True),
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(prefix="##")
        _add_tokens(tokenizer, settings, special, (saved or {}).get("added_tokens"))
        start, end = special["cls_token"], special["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start}:0 $A:0 {end}:0",
            pair=f"{start}:0 $A:0 {end}:0 $B:1 {end}:1",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (start, end)],
        )
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises bare Exception; unexpected JSON raises KeyError and TypeError
        raise CheckpointError(f"{directory}: the tokenizer cannot be built from its files ({error!r})") from error
    return tokenizer


def _as_saved(
    directory: Path, name: str, settings: Mapping[str, Any], special: Mapping[str, str], saved: Mapping[str, Any]
) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(json.dumps(saved))
        _add_tokens(tokenizer, settings, special, None)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{directory}/tokenizer.json is not a tokenizer that can be read ({error})") from error
    if name not in PREFIX_SPACE:
        return tokenizer
    wanted = bool(settings.get("add_prefix_space", PREFIX_SPACE[name]))
    for part in _parts(saved.get("pre_tokenizer"), "pretokenizers"):
        found = {
            "ByteLevel": part.get("add_prefix_space"),
            "Metaspace": part.get("prepend_scheme", "always") != "never",
        }.get(str(part.get("type")))
        if found is not None and found != wanted:
            raise CheckpointError(
                f"{directory}: tokenizer.json and tokenizer_config.json disagree on add_prefix_space ({found} and {wanted}); "
                "load the tokenizer with transformers and save it again"
            )
    used = json.dumps(saved.get("post_processor"))
    for key in ("cls_token", "sep_token"):
        if key in special and json.dumps(special[key]) not in used:
            raise CheckpointError(
                f"{directory}: tokenizer_config.json has {key} {special[key]!r}, which tokenizer.json does not put around texts; "
                "load the tokenizer with transformers and save it again"
            )
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, settings: Mapping[str, Any], special: Mapping[str, str], saved: Any) -> None:
    """Add the tokens that are matched as a whole in the text, in the order of their ids, then the missing special tokens."""
    listed = settings.get("added_tokens_decoder")
    added = [fields | {"id": int(number)} for number, fields in listed.items()] if listed is not None else saved or []
    there = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for fields in sorted(added, key=lambda each: int(each["id"])):
        if fields["content"] not in there:
            tokenizer.add_tokens([_added(fields)])
            there.add(fields["content"])
    further = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    further = list(further.values()) if isinstance(further, dict) else further
    for token in [*(settings.get(key, content) for key, content in special.items()), *further]:
        if token and _text(token) not in there:
            tokenizer.add_special_tokens(
                [_added(token if isinstance(token, dict) else {"content": token}, special=True)]
            )
            there.add(_text(token))


def _added(fields: Mapping[str, Any], **others: bool) -> AddedToken:
    kinds = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(**({kind: fields[kind] for kind in kinds if kind in fields} | others))


def _text(token: Any) -> str:
    """Return the text of a token, which is a string or an object with a `content`."""
    return str(token["content"] if isinstance(token, dict) else token)


def _parts(step: Any, key: str) -> list[Mapping[str, Any]]:
    if not isinstance(step, dict):
        return []
    return (
        [part for each in step.get(key, []) for part in _parts(each, key)] if step.get("type") == "Sequence" else [step]
    )


def _without_types(step: Any) -> Any:
    kind = step.get("type") if isinstance(step, dict) else None
    if kind in (None, "RobertaProcessing", "ByteLevel"):
        return step
    if kind == "Sequence":
        return step | {"processors": [_without_types(each) for each in step["processors"]]}
    if kind == "BertProcessing":
        (end, end_id), (start, start_id) = step["sep"], step["cls"]
        template = processors.TemplateProcessing(
            single=f"{start} $A {end}",
            pair=f"{start}:0 $A:0 {end}:0 $B:0 {end}:0",
            special_tokens=[(start, start_id), (end, end_id)],
        )
        return json.loads(template.__getstate__())
    if kind == "TemplateProcessing":
        pair = [{name: part | {"type_id": 0} for name, part in piece.items()} for piece in step["pair"]]
        return step | {"pair": pair}
    raise CheckpointError(f"tokenizer.json has a post-processor {kind!r}, whose token types cannot be left out")
