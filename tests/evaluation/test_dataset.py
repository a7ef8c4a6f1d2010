"""Data sets of ir_datasets are loaded by their ids; one that cannot be fetched says where it looked. No network."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

ir_datasets = pytest.importorskip("ir_datasets")

from crossrt.engine.errors import DataFileError, OptionError, SourceError
from crossrt.engine.files.texts import read_texts
from crossrt.engine.files.trec import read_run
from crossrt.engine.store.preparation import prepare
from crossrt.evaluation.collection import Collection
from crossrt.evaluation.dataset import collection_of_dataset

Register = Callable[..., str]
NUMBERS = itertools.count()


@pytest.fixture
def register(files: dict[str, Path]) -> Register:
    """Return a function that registers the files as a data set and returns its id."""
    formats, local = ir_datasets.formats, ir_datasets.util.LocalDownload

    def make(*, candidates: bool = False, without: str = "", docs: Any = None) -> str:
        parts = {
            "docs": formats.TsvDocs(docs or local(files["passages"])),
            "queries": formats.TsvQueries(local(files["queries"])),
            "qrels": formats.TrecQrels(local(files["qrels"]), {}),
        }
        if candidates:
            parts["run"] = formats.TrecScoredDocs(local(files["run"]))
        name = f"crossrt-test-{next(NUMBERS)}"
        dataset = ir_datasets.datasets.base.Dataset(*(part for key, part in parts.items() if key != without))
        ir_datasets.registry.register(name, dataset)
        return name

    return make


def test_a_data_set_is_the_same_collection_as_its_files(
    register: Register, collect: Callable[..., Collection], files: dict[str, Path], tmp_path: Path
) -> None:
    name = register()
    loaded, read = collection_of_dataset(name, folder=tmp_path, run=files["run"]), collect()
    assert loaded.name == f"{name}, run"
    for same in ("queries", "qrels", "evaluated", "unanswered", "unjudged"):
        assert getattr(loaded, same) == getattr(read, same)
    assert list(loaded.lists()) == list(read.lists())
    texts = read_texts(files["passages"])
    assert loaded.passages.missing(["p1", "nothing", "p39"]) == ["nothing"]
    assert loaded.passages.texts(["p39", "p1"]) == [texts["p39"], texts["p1"]]  # type: ignore[attr-defined]
    assert dict(loaded.passages) == texts  # type: ignore[call-overload]


def test_its_own_candidates_are_taken_unless_bm25_is_asked_for(
    register: Register, files: dict[str, Path], tmp_path: Path
) -> None:
    own = collection_of_dataset(register(candidates=True), folder=tmp_path)
    judged = {query: scores for query, scores in read_run(files["run"]).items() if query != "q7"}
    assert read_run(own.run.source) == judged
    assert own.name.endswith(", its own candidates")
    made = collection_of_dataset(register(candidates=True), folder=tmp_path, bm25=True, depth=5)
    assert made.name.endswith(", candidates of a BM25 run made for it")
    assert max(made.evaluated.values()) == 5
    assert made.unanswered != own.unanswered, "BM25 searches for q5 too"
    none = collection_of_dataset(register(), folder=tmp_path)
    assert none.name.endswith(", candidates of a BM25 run made for it")


def test_with_prepared_passages_a_data_set_needs_no_docs(
    register: Register, files: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    prepare(files["passages"], tmp_path / "store", tokenizer, tokenizer_sha256="x", limit=8)
    options: dict[str, Any] = {"folder": tmp_path, "run": files["run"], "store": tmp_path / "store"}
    assert len(list(collection_of_dataset(register(without="docs"), **options).lists())) > 0
    with pytest.raises(OptionError, match="has no queries"):
        collection_of_dataset(register(without="queries"), **options)


def test_a_passage_of_the_run_that_the_data_set_lacks_is_named(
    register: Register, files: dict[str, Path], tmp_path: Path
) -> None:
    with files["run"].open("a") as file:
        file.write("q2 Q0 elsewhere 11 1 t\n")
    name = register()
    with pytest.raises(
        DataFileError, match=rf"run, line 71: passage elsewhere of query q2 is not in the passages of {name}"
    ):
        collection_of_dataset(name, folder=tmp_path, run=files["run"])


@pytest.mark.parametrize("mirrors", [1, 2])
def test_a_data_set_that_cannot_be_fetched_says_where_it_looked_and_what_to_do(
    mirrors: int, register: Register, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", "1")
    addresses = [f"http://127.0.0.1:9/{file}" for file in ("collection.tsv", "mirror.tsv")][:mirrors]
    nowhere = [ir_datasets.util.RequestsDownload(address) for address in addresses]
    name = register(docs=ir_datasets.util.Download(nowhere, cache_path=str(tmp_path / "cached")))
    with pytest.raises(SourceError) as failed:
        collection_of_dataset(name, folder=tmp_path, run=files["run"])
    said = str(failed.value)
    assert said.startswith(f"the data set {name} could not be had\n  looked in  ")
    assert "\n             http://127.0.0.1:9/collection.tsv: ConnectionError\n" in said
    assert ("http://127.0.0.1:9/mirror.tsv: ConnectionError\n" in said) == (mirrors == 2)
    assert str(ir_datasets.util.home_path()) in said
    assert "--queries Q.tsv --passages P.tsv --run R.trec --qrels QRELS" in said


def test_a_file_of_a_data_set_that_is_gone_is_named(register: Register, files: dict[str, Path], tmp_path: Path) -> None:
    name = register()
    files["qrels"].unlink()
    with pytest.raises(SourceError, match=rf"{name} could not be had\n(?s:.*)FileNotFoundError: .*qrels"):
        collection_of_dataset(name, folder=tmp_path, run=files["run"])


def test_ids_and_parts_that_are_not_there_are_named(register: Register, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="ir_datasets knows no data set 'no/such'"):
        collection_of_dataset("no/such", folder=tmp_path)
    for part in ("queries", "qrels", "docs"):
        name = register(without=part)
        with pytest.raises(OptionError, match=f"{name} has no {part}"):
            collection_of_dataset(name, folder=tmp_path)
