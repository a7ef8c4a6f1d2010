"""`TokenizerFiles`: the tokenizer that transformers 5 builds from a directory, built without transformers.

The classes of BERT and MPNet rebuild the tokenizer from the vocabulary and tokenizer_config.json, and ignore the normalizer of
tokenizer.json. The generic class uses tokenizer.json as it is. Both are reproduced here. The classes in `PREFIX_SPACE` rebuild
their tokenizers too. Their tokenizer.json is used if it agrees with tokenizer_config.json, and refused if it does not.
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
from ..checkpoint.files import read_json, shown

BERT = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "LayoutLMTokenizer")
"""Classes that are rebuilt with BERT's normalizer, pre-tokenizer and template."""
BERT_MODELS = ("bert", "distilbert", "electra", "ernie", "layoutlm", "megatron-bert", "mobilebert", "squeezebert")
"""Values of model_type that use BERT's class if no class is named."""
MPNET = "MPNetTokenizer"
"""A class that is rebuilt as BERT's, with RoBERTa's template."""
PREFIX_SPACE = {
    "RobertaTokenizer": False,
    "XLMRobertaTokenizer": True,
    "CamembertTokenizer": True,
    "DebertaV2Tokenizer": True,
    "AlbertTokenizer": True,
}
"""The default of `add_prefix_space` in classes that rebuild their tokenizer."""
AROUND = {
    "XLMRobertaTokenizer": ("bos_token", "eos_token", "cls_token", "sep_token"),
    "CamembertTokenizer": ("bos_token", "eos_token", "cls_token", "sep_token"),
}
"""The special tokens that a class in `PREFIX_SPACE` puts around texts, where these are not cls_token and sep_token alone."""
CLASS_OF_MODEL = {
    **dict.fromkeys(BERT_MODELS, "BertTokenizer"),
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "albert": "AlbertTokenizer",
    "mpnet": MPNET,
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
SPECIAL_OF_MPNET = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "[UNK]",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
"""MPNet's."""


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
        older: dict[str, Any] = {}
        if "added_tokens_decoder" not in config:  # as in transformers: the newer setting replaces these older files
            settings |= read_json(directory / "special_tokens_map.json", missing={})
            older = read_json(directory / "added_tokens.json", missing={})
        named = {key: value for key, value in settings.items() if key.endswith("_token")}
        for key, value in named.items():
            if isinstance(value, dict) and not isinstance(value.get("content"), str):
                raise CheckpointError(
                    f"{directory}: {key} is {shown(value)}; a text, or an object with its content, is expected"
                )
        special = {key: _text(value) for key, value in named.items() if isinstance(value, str | dict)}
        saved = _saved(directory)
        if name in (*BERT, MPNET):
            special = (SPECIAL_OF_MPNET if name == MPNET else SPECIAL) | special
            tokenizer = _bert(directory, name, settings, special, older, saved)
        elif saved is None:
            raise CheckpointError(
                f"{directory} has no tokenizer.json, and {name} cannot be built without transformers; save it there with: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        else:
            tokenizer = _as_saved(directory, name, settings, special, older, saved)
        _check_unknown_words(directory, tokenizer)
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


def _check_unknown_words(directory: Path, tokenizer: Tokenizer) -> None:
    """Raise CheckpointError for a tokenizer that fails at a word that it does not know, as where it has no such unk_token."""
    try:
        tokenizer.encode("\ua66e", "\ua66e")  # a letter that no vocabulary has
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # see `errors_in_words`
        raise CheckpointError(f"{directory}: the tokenizer cannot be used ({error})") from error


def _saved(directory: Path) -> dict[str, Any] | None:
    if not (directory / TOKENIZER).is_file():
        return None
    return read_json(directory / TOKENIZER)


def _bert(
    directory: Path,
    name: str,
    settings: Mapping[str, Any],
    special: Mapping[str, str],
    older: Mapping[str, Any],
    saved: Mapping[str, Any] | None,
) -> Tokenizer:
    try:
        if saved is not None:
            model = saved["model"]
            vocabulary = model["vocab"]
            if not isinstance(vocabulary, dict) or model.get("type", "WordPiece") != "WordPiece":
                raise CheckpointError(
                    f"{directory}: tokenizer.json holds a {model.get('type')} model, and {name} takes WordPiece; name the "
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
        if name == MPNET:  # its mask takes the space before it along
            mask = settings.get("mask_token", special["mask_token"])
            settings = {**settings, "mask_token": {"content": mask, "lstrip": True} if isinstance(mask, str) else mask}
        _add_tokens(tokenizer, settings, special, older, (saved or {}).get("added_tokens"))
        ids = tokenizer.get_vocab()
        start, end = ((token, ids[token]) for token in (special["cls_token"], special["sep_token"]))
        if name == MPNET:
            tokenizer.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=False)
        else:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{start[0]}:0 $A:0 {end[0]}:0",
                pair=f"{start[0]}:0 $A:0 {end[0]}:0 $B:1 {end[0]}:1",
                special_tokens=[start, end],
            )
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises bare Exception; unexpected JSON raises KeyError and TypeError
        raise CheckpointError(f"{directory}: the tokenizer cannot be built from its files ({error!r})") from error
    return tokenizer


def _as_saved(
    directory: Path,
    name: str,
    settings: Mapping[str, Any],
    special: Mapping[str, str],
    older: Mapping[str, Any],
    saved: Mapping[str, Any],
) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(json.dumps(saved))
        _add_tokens(tokenizer, settings, special, older, None)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{directory}/tokenizer.json is not a tokenizer that can be read ({error})") from error
    if name in PREFIX_SPACE:
        _check_agrees(directory, name, settings, special, tokenizer)
    return tokenizer


def _check_agrees(
    directory: Path, name: str, settings: Mapping[str, Any], special: Mapping[str, str], tokenizer: Tokenizer
) -> None:
    """Raise CheckpointError where the class `name` would rebuild another tokenizer than that of tokenizer.json."""
    advice = "load the tokenizer with transformers and save it again"
    normalizers = [part["type"] for part in _parts(_json(tokenizer.normalizer), "normalizers")]
    words = {part["type"]: part for part in _parts(_json(tokenizer.pre_tokenizer), "pretokenizers")}
    held: dict[str, tuple[bool, bool]] = {}  # what tokenizer.json and tokenizer_config.json say, by setting
    prefix = bool(settings.get("add_prefix_space", PREFIX_SPACE[name]))
    if "ByteLevel" in words:
        held["add_prefix_space"] = words["ByteLevel"]["add_prefix_space"], prefix
    if "Metaspace" in words:
        held["add_prefix_space"] = words["Metaspace"]["prepend_scheme"] == "always", prefix
    lower = bool(settings.get("do_lower_case", name == "AlbertTokenizer"))
    held["do_lower_case"] = "Lowercase" in normalizers, lower and name in ("AlbertTokenizer", "DebertaV2Tokenizer")
    if name == "AlbertTokenizer":
        held["keep_accents"] = "StripAccents" not in normalizers, bool(settings.get("keep_accents", False))
    if name == "DebertaV2Tokenizer":
        held["split_by_punct"] = "Punctuation" in words, bool(settings.get("split_by_punct", False))
    for setting, (found, wanted) in held.items():
        if found != wanted:
            raise CheckpointError(
                f"{directory}: tokenizer.json and tokenizer_config.json disagree on {setting} ({found} and {wanted}, as {name} "
                f"reads it); {advice}"
            )
    used = json.dumps(_json(tokenizer.post_processor))
    for key in AROUND.get(name, ("cls_token", "sep_token")):
        if key in special and json.dumps(special[key]) not in used:
            raise CheckpointError(
                f"{directory}: tokenizer_config.json has {key} {special[key]!r}, which tokenizer.json does not put around texts; "
                f"{advice}"
            )
    model, expected = type(tokenizer.model).__name__, "BPE" if name == "RobertaTokenizer" else "Unigram"
    if model != expected or "add_prefix_space" not in held:
        raise CheckpointError(
            f"{directory}: tokenizer.json holds a {model} model with the pre-tokenizers {', '.join(words) or 'none'}, which is "
            f"no tokenizer of the class {name}; name the tokenizer's own class as tokenizer_class in tokenizer_config.json"
        )


def _json(step: Any) -> Any:
    """Return a part of a tokenizer as in tokenizer.json."""
    return None if step is None else json.loads(step.__getstate__())


def _add_tokens(
    tokenizer: Tokenizer,
    settings: Mapping[str, Any],
    special: Mapping[str, str],
    older: Mapping[str, Any],
    saved: Any,
) -> None:
    """Add the tokens that are matched as a whole in the text, in the order of their ids, then the missing special tokens.

    `older` has the ids of added_tokens.json, `saved` the added tokens of tokenizer.json, which come first.
    """
    listed = settings.get("added_tokens_decoder")
    further = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    further = list(further.values()) if isinstance(further, dict) else further
    if listed is not None:
        added = [fields | {"id": int(number)} for number, fields in listed.items()]
    else:
        ours = {*special.values(), *map(_text, further)}
        by_id = {number: {"content": token, "normalized": token not in ours} for token, number in older.items()}
        by_id |= {fields["id"]: fields for fields in saved or []}
        added = [fields | {"id": number} for number, fields in by_id.items()]
    there = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for fields in sorted(added, key=lambda each: int(each["id"])):
        if fields["content"] not in there:
            tokenizer.add_tokens([_added(fields)])
            there.add(fields["content"])
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
