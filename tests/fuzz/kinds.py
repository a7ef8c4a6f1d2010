"""The kinds of fuzzed inputs. Each function takes an empty folder and returns a function that tries one random input.

That function returns the numbers of accepted and of refused inputs. An input is refused by a CrossrtError; any other exception
is a failure and is raised.
"""

import contextlib
import dataclasses
import gzip
import json
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from crossrt.engine.backends.native_cpu import NativeSession
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.engine_file import EngineFile
from crossrt.engine.bundle.manifest import BundleFile, BundleModel, Manifest
from crossrt.engine.bundle.native_weights import NativeModel
from crossrt.engine.bundle.profiles import Profile
from crossrt.engine.errors import CrossrtError
from crossrt.engine.files import trec
from crossrt.engine.files.texts import read_texts
from crossrt.engine.kernels.support import why_not_native
from crossrt.engine.precision import Precision
from crossrt.engine.store.passage_store import PassageStore
from crossrt.engine.store.preparation import prepare
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.engine.text.wordpiece import WordPiece
from tests.conftest import vocabulary
from tests.engine.backends.test_native_cpu import dims_of, random_arrays

from . import mutation

Outcome = tuple[int, int]
Try = Callable[[Random], Outcome]
TOGETHER = 32
"""Number of texts that are tokenized together. Each counts as an input."""
PAIRS = [("where is it", "the river [SEP] é 東京 \u200b"), ("", ""), ("[PAD] <pad>", "a" * 200)]


def texts(folder: Path) -> Try:
    """Texts, tokenized by crossrt and by the package tokenizers."""
    opened = []
    for lowercase in (True, False):
        tokenizer = _bert(lowercase=lowercase)
        words = WordPiece.of(tokenizer)
        assert words is not None, "this installation has no compiled tokenization"
        opened.append((tokenizer, words))
    pieces = [
        *vocabulary(),
        *"Écrit İstanbul ΣΊΣ Straße 東京 京a都 한국어 ไทย हिन्दी Việt 👩‍👩‍👧 🇩🇪 [SEP] [PAD] ##ing".split(),
    ]

    def attempt(chance: Random) -> Outcome:
        tokenizer, words = opened[chance.randrange(2)]
        batch = [_text(chance, pieces) for _ in range(TOGETHER)]
        ids, starts, lengths = words.tokens(batch, chance.choice((1, 1, 3)))
        expected = tokenizer.encode_batch(batch, add_special_tokens=False)
        for text, start, length, right in zip(batch, starts, lengths, expected, strict=True):
            found = ids[start : start + length].tolist()
            assert found == right.ids, f"{text!r} is {found}, expected {right.ids}"
        return TOGETHER, 0

    return attempt


def tokenizers(folder: Path) -> Try:
    """Files `tokenizer.json` of every kind of tokenizer."""
    known = [json.loads(each.to_str()) for each in (_bert(), _byte_pairs(), _unigram(), _roberta())]
    file = folder / "tokenizer.json"

    def attempt(chance: Random) -> Outcome:
        file.write_bytes(mutation.json_text(chance, chance.choice(known)))
        try:
            pair_tokenizer = PairTokenizer.from_file(file, max_length=16)
            encoded = pair_tokenizer.encode(PAIRS)
        except CrossrtError:
            return 0, 1
        assert encoded.ids.min(initial=0) >= 0
        assert encoded.ids.max(initial=0) <= pair_tokenizer.largest_id, "an id beyond the largest"
        assert encoded.type_ids.max(initial=0) <= 255
        return 1, 0

    return attempt


def manifests(folder: Path) -> Try:
    """Files `manifest.json`."""
    known = json.loads(_manifest().to_json())

    def attempt(chance: Random) -> Outcome:
        content = mutation.json_text(chance, known)
        (folder / "manifest.json").write_bytes(content)
        for name in ("tokenizer.json", "model.fp32.onnx", "e.engine"):
            (folder / name).touch()
        try:
            manifest = Bundle.open(folder).manifest
        except CrossrtError:
            return 0, 1
        assert Manifest.from_json(manifest.to_json(), where=folder) == manifest
        return 1, 0

    return attempt


def native_weights(folder: Path) -> Try:
    """Native weight files. The kernels compute with every file that opens, whatever numbers it holds."""
    bundles = []
    for number, precision in enumerate(
        each for each in ("fp32", "bf16", "int8") if not why_not_native(Precision(each))
    ):
        for padding in (None, 1):
            dims = dims_of(
                precision=precision, hidden=32, heads=1, intermediate=32, vocab=8, positions=16, padding=padding
            )
            place = folder / f"{number}{padding}"
            place.mkdir()
            file = place / "model.native"
            with file.open("wb") as opened:
                from crossrt.engine.bundle.native_weights import write

                write(opened, dims, random_arrays(dims))
            model = BundleModel(file="model.fp32.onnx", native_file="model.native")
            manifest = dataclasses.replace(
                _manifest(), models={precision: model}, max_positions=16, max_length=16, labels=1
            )
            bundles.append((Bundle(place, manifest), Precision(precision), file, file.read_bytes()))
    assert bundles, f"the native kernels cannot run here: {why_not_native()}"

    def attempt(chance: Random) -> Outcome:
        bundle, precision, file, content = chance.choice(bundles)
        length = int.from_bytes(content[:8], "little")
        pick = chance.randrange(4)
        if pick == 0:  # only the weights
            data = bytearray(content)
            for _ in range(chance.randint(1, 64)):
                data[chance.randrange(8 + length, len(data))] = chance.randrange(256)
            content = bytes(data)
        elif pick == 1:
            content = mutation.some_bytes(chance, content)
        else:
            header = mutation.json_text(chance, _in_turn(chance, json.loads(content[8 : 8 + length])))
            header += b" " * (-(8 + len(header)) % 64)
            content = len(header).to_bytes(8, "little") + header + content[8 + length :]
        file.unlink(missing_ok=True)  # the previous file may still be mapped
        file.write_bytes(content)
        try:
            NativeModel.open(file)
            session = NativeSession(bundle, precision=precision, streams=1, threads=chance.choice((1, 1, 2)))
            with contextlib.closing(session):
                pairs = _encoded(chance, 8)
                session.score(pairs, np.arange(len(pairs)), 16)
        except CrossrtError:
            return 0, 1
        return 1, 0

    return attempt


def stores(folder: Path) -> Try:
    """Stores of prepared passages with one damaged file."""
    tokenizer = _bert()
    pair_tokenizer = PairTokenizer(tokenizer, max_length=16)
    names = ["10", "2", "D7", "b", "a"]
    known: list[dict[str, bytes]] = []
    for order in (names, sorted(names, key=lambda name: (len(name), name))):
        (folder / "p.tsv").write_text("".join(f"{name}\triver {name} in the city\n" for name in order))
        made = prepare(
            folder / "p.tsv", folder / f"made{len(known)}", tokenizer, tokenizer_sha256="x", limit=16, force=True
        )
        known.append({file.name: file.read_bytes() for file in made.path.iterdir()})
    place = folder / "store"
    place.mkdir()

    def attempt(chance: Random) -> Outcome:
        files = dict(chance.choice(known))
        spoilt = chance.choice([*files, "store.json"])
        if spoilt == "store.json":
            files[spoilt] = mutation.json_text(chance, json.loads(files[spoilt]))
        elif chance.random() < 0.7:  # of the right size, so that its content is read
            data = bytearray(files[spoilt])
            for _ in range(chance.randint(1, 8)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            files[spoilt] = bytes(data)
        else:
            files[spoilt] = mutation.some_bytes(chance, files[spoilt])
        for file in place.iterdir():
            file.unlink()
        for name, content in files.items():
            (place / name).write_bytes(content)
        try:
            encoded = pair_tokenizer.encode_from(PassageStore(place), "where", chance.sample(names, 3))
        except CrossrtError:
            return 0, 1
        assert 0 <= encoded.ids.min() <= encoded.ids.max() <= pair_tokenizer.largest_id
        return 1, 0

    return attempt


def trec_files(folder: Path) -> Try:
    """Files of texts, runs, qrels and pairs."""
    known: list[tuple[Callable[[Path], Any], bytes]] = [
        (read_texts, b"1\tone text\n2\ttwo \xc3\xa9 texts\r\n\n3\t\n"),
        (read_texts, b'{"id": "1", "contents": "one"}\n{"_id": 2, "title": "two", "text": "\xc3\xa9"}\n'),
        (read_texts, gzip.compress(b"1\tone text\n2\ttwo texts\n")),
        (read_texts, lzma.compress(b"1\tone text\n2\ttwo texts\n")),
        (trec.read_run, b"q1 p1 1\nq1 p2 2\n"),
        (trec.read_run, b'{"query_id": "q1", "doc_id": "p1", "score": 1.5}\n{"qid": "q1", "docid": 7, "score": 1}\n'),
        (trec.read_qrels, b"query-id\tcorpus-id\tscore\nq1\tp1\t1\n"),
        (trec.read_run, b"q1 Q0 p1 1 3.5 tag\nq1 Q0 p2 2 -1e-3 tag\nq2 Q0 p1 1 0 tag\n"),
        (trec.read_qrels, b"q1 0 p1 2\nq1 0 p2 0\nq2 0 p9 -1\n"),
        (trec.read_pairs, b"where is it\tover there\nwhat\tthat\n"),
    ]
    file = folder / "file"

    def attempt(chance: Random) -> Outcome:
        read, content = chance.choice(known)
        file.write_bytes(mutation.some_bytes(chance, content * chance.choice((1, 1, 3))))
        try:
            found = read(file)
        except CrossrtError as error:
            if str(file) not in str(error):
                raise RuntimeError(f"{error} does not name the file") from error
            return 0, 1
        if read is trec.read_run:
            for scores in found.values():
                assert len(trec.ranked(scores)) == len(scores)
        return 1, 0

    return attempt


KINDS: Mapping[str, tuple[Callable[[Path], Try], int]] = MappingProxyType(
    {
        "texts": (texts, 70),
        "tokenizers": (tokenizers, 4),
        "manifests": (manifests, 5),
        "native_weights": (native_weights, 4),
        "stores": (stores, 4),
        "trec_files": (trec_files, 13),
    }
)
"""Kind -> its function and its share of the inputs of a run, in percent."""


def _text(chance: Random, pieces: list[str]) -> str:
    pick = chance.randrange(4)
    if pick == 0:
        return chance.choice((" ", "")).join(chance.choices(pieces, k=chance.randrange(12)))
    ranges = ((0, 0x7F), (0, 0x24F), (0x300, 0x3100), (0, 0x10FFFF))
    low, high = ranges[pick] if pick < 3 else ranges[chance.randrange(4)]
    codes = (chance.randint(low, high) for _ in range(chance.randrange(40)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def _encoded(chance: Random, vocab: int) -> Any:
    from crossrt.engine.text.encoded_pairs import EncodedPairs

    lengths = [chance.randint(1, 16) for _ in range(chance.randint(1, 5))]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    ids = [chance.randint(-1, vocab) if chance.random() < 0.01 else chance.randrange(vocab) for _ in range(offsets[-1])]
    return EncodedPairs(
        ids=np.array(ids, dtype=np.int32),
        type_ids=np.array([chance.randrange(2) for _ in ids], dtype=np.uint8),
        offsets=offsets,
    )


def _in_turn(chance: Random, header: dict[str, Any]) -> dict[str, Any]:
    """Put the metadata alone into the header half of the time: otherwise mutations would nearly always hit tensors."""
    return {"__metadata__": header["__metadata__"]} if chance.random() < 0.5 else header


def _manifest() -> Manifest:
    digest = "0" * 64
    names = ("e.engine", "model.fp32.onnx", "tokenizer.json")
    return Manifest(
        source={"id": "fuzz", "revision": None},
        architecture={"model_type": "bert", "hidden_size": 32, "vocab_size": 100, "token_types": 2},
        labels=1,
        relevant_label=0,
        activation="identity",
        max_length=64,
        max_positions=64,
        pad_token_id=0,
        inputs={"input_ids": "int64", "attention_mask": "int64"},
        models={"fp32": BundleModel(file="model.fp32.onnx", parity={"passed": True}, backends={"onnxruntime": True})},
        files=tuple(BundleFile(name=name, size=0, sha256=digest) for name in names),
        engines=(
            EngineFile(
                file="e.engine",
                precision="fp32",
                library="tensorrt",
                version="10.13.0",
                gpu="A GPU",
                capability="9.0",
                profiles=(Profile(min=(1, 1), opt=(2, 8), max=(4, 16)),),
                onnx_sha256=digest,
                build_seconds=1.5,
                options={"hardware_compatible": False},
            ),
        ),
        tools={"python": "3.11"},
    )


def _bert(*, lowercase: bool = True) -> Tokenizer:
    tokens = {token: number for number, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordPiece(tokens, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokens["[CLS]"]), ("[SEP]", tokens["[SEP]"])],
    )
    return tokenizer


def _byte_pairs() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters, "th", "the"])}
    tokenizer = Tokenizer(models.BPE(tokens, [("t", "h"), ("th", "e")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def _unigram() -> Tokenizer:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁the", -2.0), ("▁", -3.0), ("river", -4.0)]
    tokenizer = Tokenizer(models.Unigram([*pieces, *((letter, -5.0) for letter in "abcdehirtw")], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _roberta() -> Tokenizer:
    words = "where is it the river a".split()
    tokens = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer
