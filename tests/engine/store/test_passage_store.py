"""A prepared store gives exactly the tokens of the texts; damaged and unfinished stores are refused."""

import copy
import gzip
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.cross_encoder import CrossEncoder
from crossrt.engine.errors import BundleError, DataFileError, InputError, OptionError, StoreError
from crossrt.engine.runtime import chunks
from crossrt.engine.store import preparation
from crossrt.engine.store.passage_store import PassageStore, StoreDescription, partial_path
from crossrt.engine.store.preparation import WHOLE, prepare
from crossrt.engine.text.encoded_pairs import Spans, TruncationSide
from crossrt.engine.text.pair_template import PairTemplate
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.engine.text.wordpiece import WordPiece, tokens_of
from crossrt.evaluation.prepared_passages import PreparedPassages
from tests.engine.text.real_tokenizer import SIDES, real_rows, rows_of

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=120)
LINE = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=120)
QUERY = "where is the river"
PASSAGES = {
    "10": "the river is in the city",
    "2": "",
    "D1234567": "berlin " * 100,
    "b": "Écrit en français, 東京 \u200b and [SEP] in the text",
    "a": "vitamin salt water",
}


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def tokenizer(bundle: Path) -> Tokenizer:
    return Tokenizer.from_file(str(bundle / "tokenizer.json"))


@pytest.fixture
def make(tmp_path: Path, tokenizer: Tokenizer, opened: Bundle) -> Callable[..., PassageStore]:
    """Return a function that prepares passages, named or numbered, and returns their store."""

    def made(
        passages: "dict[str, str] | Sequence[str]" = PASSAGES, *, name: str = "store", **options: bool
    ) -> PassageStore:
        named = (
            passages if isinstance(passages, dict) else dict(zip(map(str, range(len(passages))), passages, strict=True))
        )
        file = tmp_path / f"{name}.tsv"
        if not file.exists():
            file.write_text("".join(f"{key}\t{text}\n" for key, text in named.items()), encoding="utf-8")
        return prepare(file, tmp_path / name, tokenizer, tokenizer_sha256=opened.tokenizer_sha256, limit=64, **options)

    return made


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=TEXT, passage=TEXT, max_length=st.integers(4, 64), side=st.sampled_from(SIDES))
def test_joined_ids_equal_the_tokenizers(
    tokenizer: Tokenizer, query: str, passage: str, max_length: int, side: TruncationSide
) -> None:
    template = PairTemplate.of(tokenizer)
    queries, passages = (tokens_of(tokenizer, [text]) for text in (query, passage))
    passages = kept(passages) if side == "right" else passages
    joined = template.joined(queries, passages, max_length=max_length, truncation_side=side)
    assert rows_of(joined) == real_rows(tokenizer, [(query, passage)], max_length=max_length, truncation_side=side)


def kept(passage: Spans) -> Spans:
    """Return one passage with no more ids than a store of 64 keeps."""
    ids, starts, lengths = passage
    return ids[:64], starts, lengths


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=TEXT,
    passages=st.lists(LINE, min_size=1, max_size=12),
    max_length=st.integers(4, 64),
    side=st.sampled_from(SIDES),
)
def test_a_store_gives_what_the_texts_give(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: Tokenizer,
    query: str,
    passages: list[str],
    max_length: int,
    side: TruncationSide,
) -> None:
    folder = tmp_path_factory.mktemp("stores")
    (folder / "p.tsv").write_bytes("".join(f"{n}\t{text}\n" for n, text in enumerate(passages)).encode())
    passages_file, folder = folder / "p.tsv", folder / "store"
    store = prepare(passages_file, folder, tokenizer, tokenizer_sha256="x", limit=64, truncation_side=side)
    pair_tokenizer = PairTokenizer(tokenizer, max_length=max_length, truncation_side=side)
    names = [str(number) for number in reversed(range(len(passages)))]
    found = pair_tokenizer.encode_from(store, query, names)
    pairs = [(query, text) for text in reversed(passages)]
    assert rows_of(found) == real_rows(tokenizer, pairs, max_length=max_length, truncation_side=side)


@pytest.mark.parametrize("largest", [(1 << 16) - 1, 1 << 16])
def test_the_largest_token_id_fits_its_type(tmp_path: Path, largest: int) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "river": largest}, unk_token="[UNK]"))
    (tmp_path / "p.tsv").write_text("1\triver\n")
    store = prepare(tmp_path / "p.tsv", tmp_path / "store", words, tokenizer_sha256="x", limit=8)
    assert store.tokens(["1"])[0].tolist() == [largest]


def test_a_tokenizers_own_truncation_and_padding_are_discarded(
    make: Callable[..., PassageStore], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    store = make()
    own = Tokenizer.from_str(tokenizer.to_str())
    own.enable_truncation(4)
    own.enable_padding(length=8)
    other = prepare(tmp_path / "store.tsv", tmp_path / "other", own, tokenizer_sha256="x", limit=64)
    for name in ("ids.bin", "starts.bin", "lengths.bin"):
        assert (other.path / name).read_bytes() == (store.path / name).read_bytes()


@pytest.mark.parametrize("max_length", [4, 5, 63, 64])
@pytest.mark.parametrize("query_words", [0, 1, 30, 31, 32, 60, 61, 62, 100])
@pytest.mark.parametrize("passage_words", [0, 1, 30, 31, 61, 64, 65, 100])
def test_the_odd_token_goes_where_the_tokenizer_puts_it(
    tokenizer: Tokenizer, query_words: int, passage_words: int, max_length: int
) -> None:
    query, passage = "river " * query_words, "city " * passage_words
    queries, passages = (tokens_of(tokenizer, [text]) for text in (query, passage))
    joined = PairTemplate.of(tokenizer).joined(queries, kept(passages), max_length=max_length)
    assert rows_of(joined) == real_rows(tokenizer, [(query, passage)], max_length=max_length)


def test_ranking_from_a_store_is_ranking_the_texts(
    bundle: Path, make: Callable[..., PassageStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    with CrossEncoder(bundle) as model:
        from_texts = model.rank(QUERY, list(PASSAGES.values()))
        from_store = model.rank(QUERY, passage_ids=list(PASSAGES), passages=store)
        assert model.rank(QUERY, passage_ids=[], passages=store) == []
        assert len(model.rank(QUERY, passage_ids=["a", "a", "10"], passages=store, top_k=2)) == 2
        monkeypatch.setattr(chunks, "CHUNK", 2)
        in_chunks = model.rank(QUERY, passage_ids=iter(PASSAGES), passages=store)
    assert [row["passage_id"] for row in in_chunks] == [row["passage_id"] for row in from_store]
    np.testing.assert_allclose([row["score"] for row in in_chunks], [row["score"] for row in from_store], atol=2e-5)
    assert [row["score"] for row in from_store] == [row["score"] for row in from_texts]
    assert [row["corpus_id"] for row in from_store] == [row["corpus_id"] for row in from_texts]
    assert [row["passage_id"] for row in from_store] == [list(PASSAGES)[row["corpus_id"]] for row in from_texts]


@pytest.mark.parametrize(
    "names",
    [
        [str(number) for number in range(120)],
        [str(number * 7 % 120) for number in range(120)],
        ["é", "zz", "日本", "x" * 255, "a b", "0", "00", "000"],
    ],
)
def test_every_id_is_found_and_no_other(make: Callable[..., PassageStore], names: list[str]) -> None:
    store = make({name: "city " * (number % 50) for number, name in enumerate(names)})
    assert len(store) == len(names)
    assert store.rows(names).tolist() == list(range(len(names)))
    assert store.rows(names[::-3]).tolist() == list(range(len(names)))[::-3]
    assert ("order.bin" in store.description.files) == (names[1] not in ("1",))
    for absent in ("", "120", "-1", "0000", "x" * 254, "x" * 256, "a", "a b ", "\0", "0\0", "\x000", "\ud800"):
        assert absent not in store
        with pytest.raises(StoreError, match=re.escape(f"holds no passage {absent!r} (1 of 2")):
            store.rows([names[0], absent])
    assert 5 not in store


def test_a_store_is_copied_by_its_path_and_not_by_its_content(
    make: Callable[..., PassageStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make()
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(PassageStore(Path("store")))
    monkeypatch.chdir(tmp_path.parent)
    assert len(data) < 1000
    for copied in (pickle.loads(data), copy.deepcopy(expected)):
        assert (len(copied), copied.path) == (len(expected), expected.path)
        np.testing.assert_array_equal(copied.rows(list(PASSAGES)), expected.rows(list(PASSAGES)))


def test_a_store_is_shared_by_threads(bundle: Path, make: Callable[..., PassageStore]) -> None:
    store = make()
    with CrossEncoder(bundle) as model:
        expected = model.rank(QUERY, passage_ids=list(PASSAGES), passages=store)
        found: list[object] = []
        threads = [
            threading.Thread(target=lambda: found.append(model.rank(QUERY, passage_ids=list(PASSAGES), passages=store)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [expected] * 8


def test_a_model_that_truncates_on_the_left_ranks_a_store_as_the_texts(bundle: Path, tmp_path: Path) -> None:
    from crossrt.commands.prepare import prepare as prepare_by_command

    left = Path(shutil.copytree(bundle, tmp_path / "left"))
    fields = json.loads((left / "manifest.json").read_text())
    (left / "manifest.json").write_text(json.dumps(fields | {"truncation_side": "left"}))
    passages = PASSAGES | {"long": " ".join(f"river {'city' if n % 3 else 'red'}" for n in range(90))}
    (tmp_path / "p.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in passages.items()), encoding="utf-8")
    for path, store in ((bundle, "right.store"), (left, "left.store")):
        prepare_by_command(path, tmp_path / "p.tsv", tmp_path / store)
    with CrossEncoder(left, max_length=20) as model, CrossEncoder(bundle, max_length=20) as other:
        from_texts = model.rank(QUERY, list(passages.values()))
        from_store = model.rank(QUERY, passage_ids=list(passages), passages=PassageStore(tmp_path / "left.store"))
        assert [row["score"] for row in from_store] == [row["score"] for row in from_texts]
        assert [row["score"] for row in from_store] != [
            row["score"] for row in other.rank(QUERY, list(passages.values()))
        ]
        PreparedPassages(tmp_path / "left.store").check(model)
        for wrong, store in ((model, "right.store"), (other, "left.store")):
            with pytest.raises(StoreError, match="was prepared for models that truncate on the"):
                wrong.rank(QUERY, passage_ids=["long"], passages=PassageStore(tmp_path / store))


def test_a_store_of_another_tokenizer_or_limit_is_refused(
    bundle: Path, tmp_path: Path, tokenizer: Tokenizer, opened: Bundle
) -> None:
    (tmp_path / "p.tsv").write_text("1\tthe river\n")
    other = prepare(tmp_path / "p.tsv", tmp_path / "other", tokenizer, tokenizer_sha256="of another", limit=64)
    short = prepare(
        tmp_path / "p.tsv", tmp_path / "short", tokenizer, tokenizer_sha256=opened.tokenizer_sha256, limit=32
    )
    with CrossEncoder(bundle) as model:
        with pytest.raises(StoreError, match="another tokenizer"):
            model.rank(QUERY, passage_ids=["1"], passages=other)
        with pytest.raises(StoreError, match="keeps 32 tokens"):
            model.rank(QUERY, passage_ids=["1"], passages=short)
        model.max_length = 32
        assert len(model.rank(QUERY, passage_ids=["1"], passages=short)) == 1


def test_a_call_that_mixes_texts_and_ids_is_refused(bundle: Path, make: Callable[..., PassageStore]) -> None:
    store = make()
    with CrossEncoder(bundle) as model:
        for words in (
            {"passages": store},
            {"passage_ids": ["a"]},
            {"documents": ["a"], "passage_ids": ["a"], "passages": store},
            {"passage_ids": ["a"], "passages": store, "return_documents": True},
        ):
            with pytest.raises(OptionError, match="go together"):
                model.rank(QUERY, **words)
        with pytest.raises(InputError, match="a list of texts"):
            model.rank(QUERY, passage_ids="a", passages=store)
        with pytest.raises(InputError, match="the query holds a lone surrogate"):
            model.rank("\ud800", passage_ids=["a"], passages=store)
        with pytest.raises(StoreError, match="holds no passage 'nowhere'"):
            model.rank(QUERY, passage_ids=["a", "nowhere"], passages=store)


@pytest.mark.parametrize("name", ["ids.bin", "starts.bin", "lengths.bin", "names.bin", "order.bin"])
def test_a_truncated_or_missing_file_is_named(make: Callable[..., PassageStore], name: str) -> None:
    path = make().path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=rf"{name} is damaged"):
        PassageStore(path.parent)
    path.unlink()
    with pytest.raises(StoreError, match=rf"{name} cannot be read"):
        PassageStore(path.parent)


def test_a_bad_description_is_named(make: Callable[..., PassageStore], tmp_path: Path) -> None:
    file = make().path / "store.json"
    fields = json.loads(file.read_text())
    for broken in ("", "[]", "{", json.dumps(fields | {"id_type": "float64"}), json.dumps(fields | {"more": 1})):
        file.write_text(broken)
        with pytest.raises(StoreError, match=r"store\.json is not the description"):
            PassageStore(file.parent)
    file.write_text(json.dumps(fields | {"schema": 99}))
    with pytest.raises(StoreError, match="schema 99"):
        PassageStore(file.parent)
    with pytest.raises(StoreError, match="make one with: crossrt prepare"):
        PassageStore(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"1\tone\nno tab\n", "line 2: expected `id <tab> text`"),
        (b"1\tone\n\ttext\n", "line 2: expected"),
        (b"1\tone\n" + b"x" * 256 + b"\ttext\n", "1 to 255 bytes"),
        (b"1\tone\n2\t\xff\n", "line 2: byte 3 is not valid UTF-8"),
        (b"1\tone\n2\ttwo\n1\tagain\n", "the id 1 comes a second time"),
        (b"1\tone\n1\tagain\n", "the id 1 comes a second time"),
    ],
)
def test_bad_lines_are_named(make: Callable[..., PassageStore], tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "store.tsv").write_bytes(content)
    with pytest.raises(DataFileError, match=message):
        make()
    assert not (tmp_path / "store").exists()


def test_a_store_is_replaced_by_force_alone_and_nothing_else_is(
    make: Callable[..., PassageStore], tmp_path: Path
) -> None:
    store = make()
    with pytest.raises(StoreError, match="--force"):
        make()
    (tmp_path / "store.tsv").write_text("only\tone\n")
    assert len(make(force=True)) == 1
    assert len(store) == len(PASSAGES), "who has it open keeps it"
    assert store.rows(["a"]).tolist() == [4]
    assert not partial_path(store.path).exists()
    (tmp_path / "documents").mkdir()
    with pytest.raises(StoreError, match="is not a store"):
        make(name="documents", force=True)


CHILD = """
    import os, signal, sys
    from pathlib import Path
    from tokenizers import Tokenizer
    from crossrt.engine.store import preparation
    passages, store, tokenizer, kill_at, before = sys.argv[1:]
    preparation.PIECE = 7
    save, saves = preparation._save, 0
    def counted(partial, state):
        global saves
        saves += 1
        if saves == int(kill_at) and before == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        save(partial, state)
        if saves == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)
    preparation._save = counted
    preparation.prepare(passages, Path(store), Tokenizer.from_file(tokenizer), tokenizer_sha256="x", limit=64)
"""


@pytest.mark.parametrize(("before", "packed"), [("before", False), ("after", False), ("after", True)])
def test_a_killed_run_goes_on_where_it_was_and_ends_in_the_same_store(
    tmp_path: Path, bundle: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, before: str, packed: bool
) -> None:
    lines = [f"{n * 37 % 101}\t{'city river ' * (n % 9)}{n}\n\n" for n in range(101)]
    passages = str(tmp_path / "p*")
    for name, part in (("p1", lines[:50]), ("p2", lines[50:])) if packed else (("p", lines),):
        content = "".join(part).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    whole = prepare(passages, tmp_path / "whole", tokenizer, tokenizer_sha256="x", limit=64)
    store = tmp_path / "store"
    command = [sys.executable, "-c", textwrap.dedent(CHILD), passages, store, bundle / "tokenizer.json"]
    for kill_at in (1, 4, 3):
        child = subprocess.run([*map(str, command), str(kill_at), before], check=False, capture_output=True)
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        assert not store.exists()
        with pytest.raises(StoreError, match="is not finished"):
            PassageStore(store)
    noted = json.loads((partial_path(store) / "progress.json").read_text())
    assert noted["passages"] == 7 * (0 + 3 + 2 if before == "before" else 1 + 4 + 3)
    begun: list[int] = []
    resumed = preparation._resumed
    monkeypatch.setattr(
        preparation, "_resumed", lambda *given: begun.append((state := resumed(*given)).passages) or state
    )
    made = prepare(passages, store, tokenizer, tokenizer_sha256="x", limit=64)
    assert begun == [noted["passages"]]
    assert made.description == whole.description
    for name in made.description.files:
        assert (store / name).read_bytes() == (whole.path / name).read_bytes()
    assert sorted(path.name for path in store.iterdir()) == sorted([*made.description.files, "store.json"])


def test_memory_does_not_grow_with_the_length_of_the_passages(
    make: Callable[..., PassageStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = [f"river {number} " + "city " * 100 for number in range(60)] + ["short"] * 20
    whole = make(passages)
    sizes: list[int] = []
    tokens = WordPiece.tokens

    def counted(words: WordPiece, texts: Sequence[str], threads: int = 1) -> Spans:
        sizes.append(sum(map(len, texts)))
        return tokens(words, texts, threads)

    monkeypatch.setattr(WordPiece, "tokens", counted)
    monkeypatch.setattr(preparation, "PIECE_CHARACTERS", 5_000)
    pieces = make(passages, force=True)
    assert len(sizes) > 5
    assert max(sizes) < 5_000 + 600
    assert (pieces.path / "ids.bin").read_bytes() == whole._ids.tobytes()


def test_a_few_long_passages_with_tabs_are_no_file_of_three_columns(
    make: Callable[..., PassageStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = ["river\tcity " * 2, *["city"] * 30]
    monkeypatch.setattr(preparation, "PIECE_CHARACTERS", 10)
    assert len(make(passages)) == 31


def test_another_input_or_tokenizer_starts_anew(tmp_path: Path, bundle: Path, tokenizer: Tokenizer) -> None:
    passages = tmp_path / "p.tsv"
    passages.write_text("".join(f"{n}\tthe river {n}\n" for n in range(30)))
    command = [sys.executable, "-c", textwrap.dedent(CHILD), passages, tmp_path / "store", bundle / "tokenizer.json"]
    subprocess.run([*map(str, command), "2", "after"], check=False)
    passages.write_text("".join(f"{n}\ta city {n}\n" for n in range(40)))
    made = prepare(passages, tmp_path / "store", tokenizer, tokenizer_sha256="x", limit=64)
    pair_tokenizer = PairTokenizer(tokenizer, max_length=64)
    expected = pair_tokenizer.encode([("the", f"a city {n}") for n in range(40)])
    assert pair_tokenizer.encode_from(made, "the", [str(n) for n in range(40)]).ids.tolist() == expected.ids.tolist()


def test_two_processes_do_not_write_one_store(make: Callable[..., PassageStore], tmp_path: Path) -> None:
    with preparation._locked(tmp_path / "store"), pytest.raises(StoreError, match="being written by another process"):
        make()
    assert len(make()) == len(PASSAGES)


def test_a_full_disk_leaves_the_old_store_and_can_be_resumed(
    make: Callable[..., PassageStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make()
    write = preparation._write

    def full(file: object, values: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "store.tsv").write_text("1\tone\n2\ttwo\n")
    monkeypatch.setattr(preparation, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        make(force=True)
    assert len(PassageStore(old.path)) == len(PASSAGES)
    monkeypatch.setattr(preparation, "_write", write)
    assert len(make(force=True)) == 2


DAMAGE: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("ids.bin", lambda content: b"\xff" * len(content), "token ids beyond"),
    ("starts.bin", lambda content: b"\xff" * len(content), "a passage is not within ids"),
    (
        "starts.bin",
        lambda content: len(content).to_bytes(8, "little") * (len(content) // 8),
        "a passage is not within ids",
    ),
    ("order.bin", lambda content: b"\xff" * len(content), "holds no passage"),
    ("names.bin", lambda content: b"\xff" * len(content), "holds no passage"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE, ids=[f"{name} {words}" for name, _, words in DAMAGE])
def test_a_damaged_file_of_its_size_ends_in_words(
    make: Callable[..., PassageStore],
    tokenizer: Tokenizer,
    name: str,
    damage: Callable[[bytes], bytes],
    message: str,
) -> None:
    store = make()
    file = store.path / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(StoreError, match=message):
        PairTokenizer(tokenizer, max_length=64).encode_from(PassageStore(store.path), QUERY, list(PASSAGES))


def test_ids_of_2_to_the_31_do_not_wrap(make: Callable[..., PassageStore], tokenizer: Tokenizer) -> None:
    store = make()
    fields = json.loads((store.path / "store.json").read_text())
    fields["id_type"] = "uint32"
    fields["files"]["ids.bin"] = 4 * fields["tokens"]
    (store.path / "store.json").write_text(json.dumps(fields))
    for number in (2**31, 2**32 - 1, 2**32 - 2**31 + 5, tokenizer.get_vocab_size()):
        np.full(fields["tokens"], number, dtype=np.uint32).tofile(store.path / "ids.bin")
        with pytest.raises(StoreError, match="holds token ids beyond"):
            PairTokenizer(tokenizer, max_length=64).encode_from(PassageStore(store.path), QUERY, ["10"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passages": 4}, "and its numbers make it"),
        ({"passages": -1}, "out of its range"),
        ({"name_width": 0}, "out of its range"),
        ({"name_width": 10**9}, "out of its range"),
        ({"limit": 0}, "out of its range"),
        ({"tokens": "many"}, 'tokens is "many", expected a whole number'),
        ({"tokens": 2**62}, "and its numbers make it"),
        ({"id_type": "float64"}, "id_type is 'float64'"),
        ({"files": {"../ids.bin": 3}}, "lists the files"),
        ({"files": {}}, "lists the files"),
        ({"schema": None}, "schema is null"),
        ({"more": 1}, "more is not known"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    make: Callable[..., PassageStore], change: dict[str, Any], message: str
) -> None:
    store = make()
    fields = json.loads((store.path / "store.json").read_text())
    (store.path / "store.json").write_text(json.dumps(fields | change))
    with pytest.raises(StoreError, match=rf"store\.json is not the description of a store \(.*{message}"):
        PassageStore(store.path)


def test_ids_beyond_two_bytes_take_four_however_few_tokens_there_are(
    tmp_path: Path, opened: Bundle, tokenizer: Tokenizer
) -> None:
    fields = json.loads(tokenizer.to_str())
    fields["model"]["vocab"]["river"] = 70_000  # with holes before it
    sparse = Tokenizer.from_str(json.dumps(fields))
    (tmp_path / "p.tsv").write_text("1\tthe river\n")
    store = prepare(tmp_path / "p.tsv", tmp_path / "s", sparse, tokenizer_sha256="x", limit=64)
    ids, starts, _ = store.tokens(["1"])
    assert ids[starts[0] :].tolist() == sparse.encode("the river", add_special_tokens=False).ids
    assert 70_000 in ids


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, opened: Bundle, tokenizer: Tokenizer) -> None:
    many = Tokenizer.from_str(tokenizer.to_str())
    many.add_tokens([f"word{number}" for number in range(70_000)])
    (tmp_path / "p.tsv").write_text("1\tword69999 river\n")
    store = prepare(tmp_path / "p.tsv", tmp_path / "store", many, tokenizer_sha256="x", limit=64)
    assert store.description.id_type == "uint32"
    expected = PairTokenizer(many, max_length=64).encode([("the", "word69999 river")])
    assert PairTokenizer(many, max_length=64).encode_from(store, "the", ["1"]).ids.tolist() == expected.ids.tolist()
    assert int(expected.ids.max()) > 1 << 16


def test_a_limit_beyond_every_integer_keeps_everything(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "p.tsv").write_text("1\tthe river\n")
    store = prepare(tmp_path / "p.tsv", tmp_path / "store", tokenizer, tokenizer_sha256="x", limit=2**64)
    assert store.description.limit == WHOLE
    assert store.held(["1"])[2].tolist() == [2]


def test_a_part_of_a_passage_that_is_too_long_to_count_is_not_taken_for_the_whole(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (tmp_path / "p.tsv").write_text(f"1\t{'river ' * 66_001}\n2\t{'river ' * 65_999}\n3\t{'river ' * 65_535}\n")

    for limit, part, whole in ((65_000, "3", ()), (65_536, "2", ("3",)), (66_000, "1", ("2", "3"))):
        passages = tmp_path / f"store{limit}"
        store = prepare(tmp_path / "p.tsv", passages, tokenizer, tokenizer_sha256="x", limit=limit)
        store.check_whole(whole)
        with pytest.raises(StoreError, match=f"holds {limit} tokens of the passage '{part}', which is longer"):
            store.check_whole([part])


def test_passages_beyond_four_gigabytes_are_found(make: Callable[..., PassageStore], tokenizer: Tokenizer) -> None:
    store = make()
    pair_tokenizer = PairTokenizer(tokenizer, max_length=64)
    expected = rows_of(pair_tokenizer.encode_from(store, QUERY, list(PASSAGES)))

    before = 5_000_000_000  # tokens of passages that are not read, a hole in the file
    fields = json.loads((store.path / "store.json").read_text())
    fields["tokens"] += before
    fields["files"]["ids.bin"] += 2 * before
    (store.path / "store.json").write_text(json.dumps(fields))
    ids, starts = (store.path / name for name in ("ids.bin", "starts.bin"))
    (np.fromfile(starts, dtype=np.uint64) + np.uint64(before)).tofile(starts)
    content = ids.read_bytes()
    with ids.open("wb") as file:
        file.seek(2 * before)
        file.write(content)
    assert rows_of(pair_tokenizer.encode_from(PassageStore(store.path), QUERY, list(PASSAGES))) == expected


def test_more_passages_than_can_be_sorted_are_refused(
    make: Callable[..., PassageStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "MAX_UNSORTED", 4)
    assert len(make([""] * 5)) == 5
    with pytest.raises(StoreError, match="more than 4 passages, and their ids are not in ascending order"):
        make(PASSAGES, name="unsorted")


def test_the_description_says_what_it_holds(make: Callable[..., PassageStore], opened: Bundle) -> None:
    description = StoreDescription.read(make().path / "store.json")
    assert description.passages == len(PASSAGES)
    assert description.tokenizer_sha256 == opened.tokenizer_sha256
    assert description.source == "store.tsv"
    assert sum(description.files.values()) < 1000
    assert os.access(make(name="second").path, os.R_OK)
    with pytest.raises(BundleError):
        Bundle.open(make(name="third").path)


@pytest.mark.parametrize(
    "name", [".store.lock", ".store.partial", ".store.partial/ids.bin", ".store.partial/names.txt"]
)
def test_a_link_under_a_name_that_others_can_guess_is_not_followed(
    make: Callable[..., PassageStore], tmp_path: Path, name: str
) -> None:
    precious = tmp_path / "precious"
    if name.endswith(".partial"):
        precious.mkdir()
        (precious / "ids.bin").write_text("precious")
    else:
        precious.write_text("precious")
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(precious)
    with pytest.raises((StoreError, OSError), match="is a symbolic link, which is not followed here; remove it"):
        make()
    assert (precious / "ids.bin" if precious.is_dir() else precious).read_text() == "precious"
    (tmp_path / name).unlink()
    assert len(make()) == len(PASSAGES)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make another user's folder")
def test_another_users_partial_store_is_refused(make: Callable[..., PassageStore], tmp_path: Path) -> None:
    (tmp_path / ".store.partial").mkdir()
    os.chown(tmp_path / ".store.partial", 12345, 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        make()
    assert list((tmp_path / ".store.partial").iterdir()) == []


def test_a_store_behind_a_link_is_replaced_and_the_link_stays(
    make: Callable[..., PassageStore], tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to("disk/store")
    make()
    assert len(make(force=True)) == len(PASSAGES)
    assert (tmp_path / "store").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["store"]
