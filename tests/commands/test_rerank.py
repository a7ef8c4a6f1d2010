"""`crossrt rerank` writes what `rank` returns: the best k, windows, a cascade; and says how much was cut."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from crossrt import Bundle, Cascade, CrossEncoder, Windows
from crossrt.__main__ import main
from crossrt.commands.rerank import _cut, _kept
from crossrt.engine import cross_encoder
from crossrt.engine.store.preparation import WHOLE, prepare
from crossrt.engine.text.tokenizer import read_tokenizer
from crossrt.engine.text.truncation import Truncation

QUERIES = {"q1": "where is the river", "q2": "how long does it take"}
PASSAGES = {
    f"p{n}": text for n, text in enumerate(["a city", "the river is long " * 9, "green water " * 40, "salt"] * 2)
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "q.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in QUERIES.items()))
    (tmp_path / "p.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in PASSAGES.items()))
    rows = [f"{query} Q0 {name} {n + 1} {-n} bm25\n" for query in QUERIES for n, name in enumerate(PASSAGES)]
    (tmp_path / "run.trec").write_text("".join(rows))
    names = {"queries": "q.tsv", "passages": "p.tsv", "run": "run.trec"}
    return [word for option, name in names.items() for word in (f"--{option}", str(tmp_path / name))]


def run(bundle: Path, files: list[str], out: Path, *options: str) -> int:
    words = ["crossrt", "rerank", str(bundle), *files, "--out", str(out), "--device", "cpu", *options]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", words)
        main()
    return int(ended.value.code or 0)


def reranked(bundle: Path, files: list[str], out: Path, *options: str) -> dict[str, dict[str, float]]:
    assert run(bundle, files, out, *options) == 0
    found: dict[str, dict[str, float]] = {}
    for line in out.read_text(encoding="utf-8").splitlines():
        query, _, passage, _, score, _ = line.split()
        found.setdefault(query, {})[passage] = float(score)
    return found


def ranked(ranker: Any, **options: Any) -> dict[str, dict[str, float]]:
    names = list(PASSAGES)
    return {
        query: {
            names[each["corpus_id"]]: each["score"] for each in ranker.rank(text, list(PASSAGES.values()), **options)
        }
        for query, text in QUERIES.items()
    }


def test_only_the_best_k_are_written(bundle: Path, files: list[str], tmp_path: Path, capsys: Any) -> None:
    found = reranked(bundle, files, tmp_path / "out", "--top-k", "3")
    with CrossEncoder(bundle, device="cpu") as model:
        assert found == ranked(model, top_k=3)
        cut = model.truncation
    assert cut.cut == 4
    said = capsys.readouterr().err
    assert "2 queries, 16 passages, the best 6 written; " in said
    assert f"; 4 were cut to 64 tokens and lost {cut.tokens:,} tokens (--window" in said


def test_numbers_of_the_last_line_have_separators() -> None:
    cut = _cut(Truncation(pairs=10_000, cut=2_073, tokens=195_870), 8_192)
    assert cut == "; 2,073 were cut to 8,192 tokens and lost 195,870 tokens (--window scores them whole)"
    assert _kept(1_000, 10_000) == ", the best 1,000 written"


def test_windows_lose_nothing(bundle: Path, files: list[str], tmp_path: Path, capsys: Any) -> None:
    found = reranked(bundle, files, tmp_path / "out", "--window", "32", "--stride", "8", "--aggregate", "mean:2")
    with CrossEncoder(bundle, device="cpu") as model:
        assert found == ranked(model, windows=Windows(length=32, stride=8, aggregate="mean:2"))
    assert capsys.readouterr().err.rstrip().endswith("2 queries, 16 passages")


def test_a_first_bundle_cuts_the_list(
    bundle: Path, make_bundle: Callable[..., Path], files: list[str], tmp_path: Path
) -> None:
    small = make_bundle(seed=9)
    found = reranked(bundle, files, tmp_path / "out", "--first", str(small), "--keep", "3")
    with CrossEncoder(small, device="cpu") as first, CrossEncoder(bundle, device="cpu") as second:
        assert found == ranked(Cascade(first, second, keep=3))


def test_windows_are_for_both_models_of_a_cascade(
    bundle: Path, make_bundle: Callable[..., Path], files: list[str], tmp_path: Path, capsys: Any
) -> None:
    small = make_bundle(seed=9)
    cascade = ("--first", str(small), "--keep", "7")
    reranked(bundle, files, tmp_path / "out", *cascade)
    with CrossEncoder(small, device="cpu") as first, CrossEncoder(bundle, device="cpu") as second:
        ranked(Cascade(first, second, keep=7))
        cut = [model.truncation for model in (first, second)]
    assert cut[0].cut == 4
    assert 0 < cut[1].cut <= 4
    said = capsys.readouterr().err
    assert f"; 4 were cut to 64 tokens by the first model and lost {cut[0].tokens:,} tokens (" in said
    assert f"; {cut[1].cut} were cut to 64 tokens and lost {cut[1].tokens:,} tokens (" in said
    reranked(bundle, files, tmp_path / "out", *cascade, "--window", "32", "--stride", "8")
    assert capsys.readouterr().err.rstrip().endswith("2 queries, 16 passages, the best 14 written")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--exact"], ""),  # FP32 is exact already
        (["--first", "x"], "--first BUNDLE and --keep N go together"),
        (["--keep", "3"], "--first BUNDLE and --keep N go together"),
        (["--stride", "3"], "--stride and --aggregate go with --window"),
        (["--window", "8", "--stride", "9"], "a stride of 9 tokens would leave out tokens between windows of 8"),
        (["--window", "65"], "windows of 65 tokens, but the model takes 64"),
        (["--window", "16", "--aggregate", "median"], "unknown aggregation 'median'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    bundle: Path, files: list[str], tmp_path: Path, capsys: Any, options: list[str], said: str
) -> None:
    assert run(bundle, files, tmp_path / "out", *options) == (2 if said else 0)
    assert said in capsys.readouterr().err
    assert (tmp_path / "out").exists() == (not said)


def in_other_forms(folder: Path) -> list[str]:
    """Write the same files as Pyserini, BEIR and MS MARCO have them; return the options that give them."""
    rows = [{"_id": name, "text": text} for name, text in QUERIES.items()]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\r\n" for row in rows), encoding="utf-8-sig")
    names = list(PASSAGES)
    for part, some in enumerate((names[:3], names[3:])):
        lines = "".join(json.dumps({"id": name, "contents": PASSAGES[name]}) + "\n" for name in some)
        (folder / f"part-{part}.jsonl.zst").write_bytes(zstd.compress(lines.encode()))
    (folder / "run.tsv").write_text(
        "".join(f"{query}\t{name}\t{n + 1}\n" for query in QUERIES for n, name in enumerate(names))
    )
    return [
        "--queries",
        str(folder / "q.jsonl"),
        "--passages",
        str(folder / "part-*.zst"),
        "--run",
        str(folder / "run.tsv"),
    ]


def test_other_forms_of_the_files_give_the_same_bytes(bundle: Path, files: list[str], tmp_path: Path) -> None:
    assert run(bundle, files, tmp_path / "plain") == 0
    assert run(bundle, in_other_forms(tmp_path), tmp_path / "other") == 0
    assert (tmp_path / "other").read_bytes() == (tmp_path / "plain").read_bytes()
    assert run(bundle, files, tmp_path / "out.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = [line.split() for line in (tmp_path / "plain").read_text().splitlines()]
    found = [[row["query_id"], "Q0", row["doc_id"], str(row["rank"]), repr(row["score"]), "crossrt"] for row in rows]
    assert found == expected


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("nowhere/run.trec", "is in a directory that does not exist"),
        (".", "is a directory; give a file to write"),
        ("run.trec.gz", "would not be compressed"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(
    bundle: Path, files: list[str], tmp_path: Path, out: str, said: str, capsys: Any
) -> None:
    assert run(bundle, ["--queries", "no file", *files[2:]], tmp_path / out) == 2
    assert said in capsys.readouterr().err


def test_only_one_file_is_standard_input(bundle: Path, files: list[str], tmp_path: Path, capsys: Any) -> None:
    words = [*files[:1], "-", *files[2:5], "-"]
    assert run(bundle, words, tmp_path / "out") == 2
    assert "only one of --queries, --run and --passages can be - (standard input)" in capsys.readouterr().err


def test_a_passage_that_the_store_lacks_is_named_before_anything_is_scored(
    bundle: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    opened = Bundle.open(bundle)
    prepare(
        tmp_path / "p.tsv",
        tmp_path / "store",
        read_tokenizer(opened.tokenizer_file),
        tokenizer_sha256=opened.tokenizer_sha256,
        limit=WHOLE,
    )
    with (tmp_path / "run.trec").open("a") as file:
        file.write("q2 Q0 p99 9 -9 bm25\n")
    monkeypatch.setattr(cross_encoder, "CrossEncoder", lambda *_, **__: pytest.fail("a model was opened"))
    assert run(bundle, [*files[:2], *files[4:], "--store", str(tmp_path / "store")], tmp_path / "out") == 1
    assert "holds no passage 'p99'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["q.tsv", "p.tsv", "run.trec", "link.tsv"])
def test_the_output_replaces_no_input(bundle: Path, files: list[str], tmp_path: Path, name: str, capsys: Any) -> None:
    (tmp_path / "link.tsv").symlink_to("q.tsv")
    before = (tmp_path / name).read_bytes()
    assert run(bundle, files, tmp_path / name) == 2
    assert "would be replaced; give another file" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before


def test_the_output_replaces_no_file_of_a_pattern(bundle: Path, files: list[str], tmp_path: Path) -> None:
    words = [str(tmp_path / "p*.tsv") if word.endswith("p.tsv") else word for word in files]
    assert run(bundle, words, tmp_path / "p.tsv") == 2
    assert run(bundle, words, tmp_path / "out.trec") == 0
    assert run(bundle, words, tmp_path / "out.trec") == 0  # an earlier output is replaced
