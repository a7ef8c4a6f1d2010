"""The tokenizer of a directory without PyTorch gives the token ids and types that transformers gives, or is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

from tokenizers import pre_tokenizers

from crossrt.engine.errors import CheckpointError
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export.existing.tokenizer_files import TokenizerFiles
from tests.conftest import vocabulary

PAIRS = [
    ("How long does it take", "BERLIN is a City"),
    ("where is the Rivér", "the ríver  is\nlong, and green! [MASK] eggs"),
    ("東京 river", "people 東京 live in paris"),
    ("<extra> light", "the <extra>mountain a <mask> b"),
]
SPARE = 50
"""Token ids that the model has beyond the vocabulary, for added tokens."""
SPECIAL = {
    "deberta-v2": ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
    "albert": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
    "xlm-roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}


def written(kind: str, path: Path) -> int:
    """Write the tokenizer of a kind of model as transformers saves it, and return its number of tokens."""
    path.mkdir()
    if kind in ("bert", "mpnet"):
        around = (["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"]) if kind == "mpnet" else ([], [])
        tokens = [*around[0], *vocabulary(), *around[1]]
        (path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        (path / "config.json").write_text(json.dumps({"model_type": kind}))
        transformers.AutoTokenizer.from_pretrained(path).save_pretrained(path)
    elif kind == "roberta":
        tokens = [*SPECIAL["xlm-roberta"], *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]
        numbers = {token: number for number, token in enumerate(tokens)}
        merges = [("t", "h"), ("th", "e")]
        transformers.RobertaTokenizer(vocab=numbers, merges=merges).save_pretrained(path)
    else:
        words = [word for word in vocabulary() if len(word) > 1 and word.isalpha()]
        letters = [chr(code) for code in range(33, 127)]
        tokens = [*SPECIAL[kind], "▁", *(f"▁{word}" for word in words), *letters, "é", "í", "東", "京"]
        pieces = [(token, 0.0 if token in SPECIAL[kind] else -float(len(tokens) - len(token))) for token in tokens]
        saved = {
            "deberta-v2": transformers.DebertaV2Tokenizer,
            "albert": transformers.AlbertTokenizer,
            "xlm-roberta": transformers.XLMRobertaTokenizer,
        }[kind]
        saved(vocab=pieces).save_pretrained(path)
    (path / "config.json").write_text(json.dumps({"model_type": kind, "vocab_size": len(tokens) + SPARE}))
    return len(tokens)


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    path.write_text(json.dumps(fields), encoding="utf-8")


def settings(**fields: Any) -> Callable[[Path], None]:
    return lambda path: edited(path / "tokenizer_config.json", lambda held: held.update(fields))


def tokenizer_json(**fields: Any) -> Callable[[Path], None]:
    return lambda path: edited(path / "tokenizer.json", lambda held: held.update(fields))


def without(*names: str) -> Callable[[Path], None]:
    return lambda path: [(path / name).unlink() for name in names] and None


LOWER_CASE = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFC"}]}
EQUAL: list[tuple[str, Callable[[Path], object]]] = [
    ("mpnet", settings()),
    ("mpnet", without("tokenizer.json")),
    ("mpnet", without("vocab.txt")),
    ("mpnet", settings(do_lower_case=False)),
    ("mpnet", settings(strip_accents=False)),
    ("mpnet", settings(tokenize_chinese_chars=False)),
    ("mpnet", settings(cls_token="the")),
    ("mpnet", settings(tokenizer_class="PreTrainedTokenizerFast", do_lower_case=False)),
    ("mpnet", tokenizer_json(normalizer=None, post_processor=None)),
    ("bert", settings(tokenizer_class="MPNetTokenizer", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")),
    ("deberta-v2", settings()),
    ("albert", settings()),
    ("albert", settings(do_lower_case=True, keep_accents=False)),
    ("xlm-roberta", settings(do_lower_case=True)),
    ("roberta", settings()),
    ("roberta", lambda path: edited(path / "tokenizer_config.json", lambda held: held.pop("add_prefix_space"))),
]
REFUSED: list[tuple[str, Callable[[Path], object], str]] = [
    ("deberta-v2", settings(do_lower_case=True), r"disagree on do_lower_case \(False and True, as DebertaV2Tokenizer"),
    ("deberta-v2", tokenizer_json(normalizer=LOWER_CASE), r"disagree on do_lower_case \(True and False"),
    ("deberta-v2", settings(split_by_punct=True), r"disagree on split_by_punct \(False and True"),
    ("deberta-v2", settings(sep_token="a"), "sep_token 'a', which tokenizer.json does not put around texts"),
    ("deberta-v2", tokenizer_json(post_processor=None), r"cls_token '\[CLS\]', which tokenizer.json does not put"),
    ("deberta-v2", tokenizer_json(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizers Whitespace, which is no"),
    ("deberta-v2", settings(tokenizer_class="RobertaTokenizer", add_prefix_space=True), "holds a Unigram model"),
    ("albert", tokenizer_json(model={"type": "Unigram"}), r"tokenizer\.json is not a tokenizer that can be read"),
    ("albert", settings(do_lower_case=False), r"disagree on do_lower_case \(True and False, as AlbertTokenizer"),
    ("albert", settings(keep_accents=True), r"disagree on keep_accents \(False and True"),
    ("albert", settings(add_prefix_space=False), r"disagree on add_prefix_space \(True and False"),
    ("xlm-roberta", tokenizer_json(normalizer=LOWER_CASE), r"disagree on do_lower_case \(True and False"),
    ("xlm-roberta", settings(bos_token="a"), "bos_token 'a', which tokenizer.json does not put around texts"),
    ("roberta", tokenizer_json(normalizer={"type": "Lowercase"}), r"disagree on do_lower_case \(True and False"),
    ("bert", settings(tokenizer_class="RobertaTokenizer"), "holds a WordPiece model"),
]


def by_transformers(path: Path) -> list[tuple[list[int], list[int]]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    encoded = [tokenizer([query], [passage]) for query, passage in PAIRS]
    ids = [each["input_ids"][0] for each in encoded]
    return [(row, each.get("token_type_ids", [[0] * len(row)])[0]) for row, each in zip(ids, encoded, strict=True)]


def by_crossrt(path: Path) -> list[tuple[list[int], list[int]]]:
    made = TokenizerFiles.read(path, json.loads((path / "config.json").read_text()))
    file = path / "made.json"
    file.write_text(made.json if made.token_types else made.without_types(), encoding="utf-8")
    pairs = PairTokenizer.from_file(file, max_length=512).encode(PAIRS)
    places = zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True)
    return [(pairs.ids[start:stop].tolist(), pairs.type_ids[start:stop].tolist()) for start, stop in places]


@pytest.mark.parametrize(("kind", "edit"), EQUAL)
def test_classes_that_rebuild_their_tokenizer_give_transformers_ids(
    kind: str, edit: Callable[[Path], object], tmp_path: Path
) -> None:
    written(kind, tmp_path / "files")
    edit(tmp_path / "files")
    assert by_crossrt(tmp_path / "files") == by_transformers(tmp_path / "files")


@pytest.mark.parametrize(("kind", "edit", "message"), REFUSED)
def test_a_tokenizer_json_that_its_class_would_not_rebuild_is_refused(
    kind: str, edit: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    written(kind, tmp_path / "files")
    edit(tmp_path / "files")
    with pytest.raises(CheckpointError, match=message):
        by_crossrt(tmp_path / "files")


@pytest.mark.parametrize("unlinked", ["tokenizer.json", None])
@pytest.mark.parametrize("kind", ["bert", "mpnet", "xlm-roberta", "roberta"])
def test_an_older_added_tokens_json_counts_as_in_transformers(kind: str, unlinked: str | None, tmp_path: Path) -> None:
    path = tmp_path / "files"
    size = written(kind, path)
    edited(path / "tokenizer_config.json", lambda held: held.pop("added_tokens_decoder", None))
    if unlinked is not None and kind in ("bert", "mpnet"):
        (path / unlinked).unlink()
    before = by_transformers(path)
    (path / "added_tokens.json").write_text(json.dumps({"<extra>": size, "berlin is": size + 1}))
    expected = by_transformers(path)
    assert expected != before, "the added tokens are found"
    assert by_crossrt(path) == expected


def test_a_wrong_added_tokens_json_is_refused(tmp_path: Path) -> None:
    written("bert", tmp_path / "files")
    (tmp_path / "files/added_tokens.json").write_text(json.dumps({"<extra>": "x"}))
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / "files"))):
        by_crossrt(tmp_path / "files")
