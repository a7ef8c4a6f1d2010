"""Passages are looked up where they lie, and are those of the file."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from crossrt import CrossEncoder
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.errors import DataFileError, StoreError
from crossrt.engine.files.texts import read_texts
from crossrt.engine.store.preparation import prepare
from crossrt.evaluation import passage_file as module
from crossrt.evaluation.passage_file import PassageFile
from crossrt.evaluation.prepared_passages import PreparedPassages

NAMES = st.text("ab01é\ufeff ", min_size=1, max_size=6)
TEXTS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.dictionaries(NAMES, TEXTS, min_size=1, max_size=20),
    asked=st.lists(NAMES, max_size=5),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    mark=st.booleans(),
    piece=st.integers(1, 7),
)
def test_texts_and_missing_ids_are_those_of_the_whole_file(
    tmp_path: Path, texts: dict[str, str], asked: list[str], end: str, mark: bool, piece: int
) -> None:
    path = tmp_path / "passages.tsv"
    path.write_bytes(("\ufeff" * mark + "".join(f"{name}\t{text}{end}" for name, text in texts.items())).encode())
    try:
        whole = read_texts(path)
    except DataFileError:
        return  # a byte order mark was taken off, and two ids are the same
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", piece)
        opened = PassageFile(path)
    assert len(opened) == len(whole)
    assert opened.texts(list(whole)) == list(whole.values())
    assert dict(opened) == whole
    every = [*asked, *whole, *(f"{name}0" for name in whole), "", "a" * 300, "a\0"]
    assert opened.missing(every) == [name for name in every if name not in whole]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\ta\nno tab\n", "line 2: expected `id <tab> text`"),
        ("1\ta\n\n\ttext\n", "line 3: expected `id <tab> text`, or a JSON object"),
        ("x" * 256 + "\ta\n", "line 1: an id has 1 to 255 bytes and no zero byte"),
        ("a\0\ttext\n", "line 1: an id has 1 to 255 bytes and no zero byte"),
        ("1\ta\n2\tb\n\n2\tc\n1\td\n", "line 4: the id 2 comes a second time"),
        ("", "is empty"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "p").write_text(content)
    with pytest.raises(DataFileError, match=message):
        PassageFile(tmp_path / "p")


@pytest.mark.parametrize("changed", ["1\tone more\n2\ttwo\n", "2\ttwo\n1\tone\n", "1\tone\n", ""])
def test_a_file_that_was_changed_is_noticed(tmp_path: Path, changed: str) -> None:
    path = tmp_path / "p"
    path.write_text("1\tone\n2\ttwo\n")
    opened = PassageFile(path)
    path.write_text(changed)
    with pytest.raises(DataFileError, match="was changed while it was read"):
        opened.texts(["1", "2"])


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "p"
    with path.open("w") as file:
        file.writelines(f"{row}\t{'text ' * 200}\n" for row in range(10_000))
    tracemalloc.start()
    opened = PassageFile(path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert opened.texts(["9999"]) == ["text " * 200]
    assert held < 10_000 * (4 + 8) + 50_000, "4 bytes of an id, 8 of a place"
    assert peak < 4_000_000, "10 MB of texts were never held"


@pytest.fixture
def stored(bundle: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a file of passages and what was prepared of it."""
    file = tmp_path / "passages.tsv"
    file.write_text("a\tthe river is long\nb\tpeople live in paris\n")
    opened = Bundle.open(bundle)
    tokenizer = Tokenizer.from_file(str(opened.tokenizer_file))
    prepare(file, tmp_path / "store", tokenizer, tokenizer_sha256=opened.tokenizer_sha256, limit=64)
    return file, tmp_path / "store"


def test_prepared_passages_score_as_their_texts(stored: tuple[Path, Path], model: CrossEncoder) -> None:
    file, store = PassageFile(stored[0]), PreparedPassages(stored[1])
    store.check(model)
    for ids in (["a", "b"], ["b"]):
        one, other = (model.rank("where is it", **kept.rank_arguments(ids)) for kept in (file, store))
        assert [(each["corpus_id"], each["score"]) for each in one] == [
            (each["corpus_id"], each["score"]) for each in other
        ]
    assert store.missing(["b", "c", "a", ""]) == ["c", ""]
    assert store.missing(["b"]) == []


def test_a_model_of_another_tokenizer_is_refused(
    stored: tuple[Path, Path], with_another: Callable[[str], Path]
) -> None:
    with CrossEncoder(with_another("tokenizer.json")) as other, pytest.raises(StoreError, match="another tokenizer"):
        PreparedPassages(stored[1]).check(other)
