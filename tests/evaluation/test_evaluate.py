"""`crossrt evaluate`, from its words to the files it writes."""

import dataclasses
import gzip
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

pytrec_eval = pytest.importorskip("pytrec_eval")
ir_measures = pytest.importorskip("ir_measures")

from crossrt import CrossEncoder, Windows
from crossrt.__main__ import main
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.manifest import MANIFEST
from crossrt.engine.errors import BackendError, BundleError, DataFileError, OptionError
from crossrt.engine.files.digests import sha256_of
from crossrt.engine.files.texts import read_texts
from crossrt.engine.files.trec import read_qrels, read_run
from crossrt.engine.store.preparation import prepare
from crossrt.engine.text.truncation import Truncation
from crossrt.evaluation.collection import Collection
from crossrt.evaluation.evaluate import _followed, evaluate, locked_folder
from crossrt.evaluation.measures import Measures
from crossrt.evaluation.result import Evaluation
from crossrt.measurement.model_config import ModelConfig, Options, model_configs

Collect = Callable[..., Collection]
Command = Callable[..., tuple[int, str, str]]
MEASURES = Measures.parse("nDCG@10 RR@10 AP R@5")


@pytest.fixture
def command(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `crossrt evaluate` on the files and returns its exit status, output and errors."""

    def run(*words: object, **other: Path) -> tuple[int, str, str]:
        given = [word for name, path in (files | other).items() for word in (f"--{name}", str(path))]
        monkeypatch.setattr("sys.argv", ["crossrt", "evaluate", *map(str, words), *given])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return run


@pytest.fixture(scope="module")
def two_precisions(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose int8 model is its fp32 model, which the tests can tell apart by its name alone."""
    path = tmp_path_factory.mktemp("bundles") / "small"
    shutil.copytree(bundle, path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["models"]["int8"] = manifest["models"]["fp32"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def systems(bundle: Path, *precisions: str, **options: Any) -> list[ModelConfig]:
    return model_configs([str(bundle)], precisions or ("fp32",), Options(**options))


TIMES = re.compile(rb'"(?:seconds|pairs_per_s)": [0-9.e+-]+')


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, but for the times that an evaluation took."""
    return {
        path.name: TIMES.sub(b"", path.read_bytes())
        for path in folder.iterdir()
        if path.is_file() and path.name != ".lock"
    }


def test_other_forms_of_the_files_give_the_same_numbers(
    command: Command, bundle: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    status, printed, _ = command(bundle, "--out", tmp_path / "plain")
    passages = [{"docid": name, "contents": text} for name, text in read_texts(files["passages"]).items()]
    parquet.write_table(pyarrow.Table.from_pylist(passages), tmp_path / "p.parquet")
    ranks = [line.split() for line in files["run"].read_text().splitlines()]
    lines = "".join(f"{query} {name} {rank}\n" for query, _, name, rank, *_ in ranks)
    (tmp_path / "run.gz").write_bytes(gzip.compress(lines.encode()))
    judged = [line.split() for line in files["qrels"].read_text().splitlines()]
    rows = ["query-id\tcorpus-id\tscore", *(f"{query}\t{name}\t{grade}" for query, _, name, grade in judged)]
    (tmp_path / "qrels.tsv").write_text("\r\n".join(rows))
    others = {"passages": tmp_path / "p.parquet", "run": tmp_path / "run.gz", "qrels": tmp_path / "qrels.tsv"}
    for _ in range(2):  # the second time it finds the finished runs
        other = command(bundle, "--out", tmp_path / "other", **others)
        assert (status, other[0]) == (0, 0), other[2]
        runs = [(tmp_path / folder / "bundle.fp32.run.trec").read_bytes() for folder in ("plain", "other")]
        assert runs[0] == runs[1]
        means = [
            [row.means for row in Evaluation.read(tmp_path / folder / "result.json").rankings]
            for folder in ("plain", "other")
        ]
        assert means[0] == means[1]
    assert printed.splitlines()[1] == other[1].splitlines()[1]


def test_only_one_file_is_standard_input(command: Command, bundle: Path, tmp_path: Path) -> None:
    status, _, said = command(bundle, "--out", tmp_path / "out", queries=Path("-"), qrels=Path("-"))
    assert status == 2
    assert "only one of --queries, --run, --passages and --qrels can be - (standard input)" in said


def test_trec_eval_gives_the_numbers_that_are_printed(
    command: Command, bundle: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    status, printed, said = command(bundle, "--out", tmp_path / "out", "--measures", "nDCG@10 RR@10 AP R@5")
    assert status == 0, said
    result = Evaluation.read(tmp_path / "out/result.json")
    candidates, ours = result.rankings
    qrels = read_qrels(files["qrels"])
    for ranking, file in ((candidates, files["run"]), (ours, tmp_path / "out/bundle.fp32.run.trec")):
        with file.open() as opened:
            run = {query: scores for query, scores in pytrec_eval.parse_run(opened).items() if query in qrels}
        measured = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recip_rank", "map", "recall.5"}).evaluate(run)
        assert len(measured) == 6
        for name, theirs in (("nDCG@10", "ndcg_cut_10"), ("RR@10", "recip_rank"), ("AP", "map"), ("R@5", "recall_5")):
            # trec_eval -c: q5 has no candidates and counts.
            assert ranking.means[name] == pytest.approx(
                sum(found[theirs] for found in measured.values()) / 7, abs=1e-12
            )
            assert f"{ranking.means[name]:.4f}" in printed
    rows = [line.split() for line in (tmp_path / "out/bundle.fp32.run.trec").read_text().splitlines()]
    assert len(rows) == 60
    equal = [(one, other) for one, other in itertools.pairwise(rows) if one[4] == other[4]]
    assert equal, "passages of one text tie"
    assert all(one[2] > other[2] for one, other in equal)


def test_every_query_is_measured_and_means_are_of_them(command: Command, bundle: Path, tmp_path: Path) -> None:
    command(bundle, "--out", tmp_path / "out", "--measures", "AP RR(rel=2)@10")
    result = Evaluation.read(tmp_path / "out/result.json")
    lines = [json.loads(line) for line in (tmp_path / "out/queries.jsonl").read_text().splitlines()]
    assert [line["query"] for line in lines] == ["q0", "q1", "q2", "q3", "q4", "q6", "q5"]
    assert lines[-1]["measures"]["bundle.fp32"] == {"AP": 0, "RR(rel=2)@10": 0}
    for ranking in result.rankings:
        for name, mean in ranking.means.items():
            assert sum(line["measures"][ranking.label][name] for line in lines) / 7 == pytest.approx(mean)
    assert result.queries == 7
    assert result.unanswered == 1
    assert result.to_json() == (tmp_path / "out/result.json").read_text()
    assert str(tmp_path) not in result.to_json(), "no paths"


def test_the_run_is_that_of_rerank(
    command: Command, bundle: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(bundle, "--out", tmp_path / "out")
    words = [word for name in ("queries", "passages", "run") for word in (f"--{name}", str(files[name]))]
    monkeypatch.setattr("sys.argv", ["crossrt", "rerank", str(bundle), *words, "--out", str(tmp_path / "reranked")])
    with pytest.raises(SystemExit):
        main()
    reranked = read_run(tmp_path / "reranked")
    del reranked["q7"]  # which nobody judged
    assert read_run(tmp_path / "out/bundle.fp32.run.trec") == reranked


def test_precisions_and_bundles_are_rows_beside_a_baseline(
    command: Command, two_precisions: Path, bundle: Path, tmp_path: Path
) -> None:
    words = (two_precisions, "--precision", "fp32,int8", "--out", tmp_path / "out")
    status, printed, _ = command(*words)
    assert status == 0
    result = Evaluation.read(tmp_path / "out/result.json")
    assert [ranking.label for ranking in result.rankings] == ["candidates", "small.fp32", "small.int8"]
    assert result.baseline == "small.fp32"
    assert [ranking.changes is None for ranking in result.rankings] == [False, True, False]
    same = result.rankings[2].changes
    assert same is not None
    assert same["AP"].low == same["AP"].difference == same["AP"].high == 0
    assert printed.count("baseline") == 5, "of each measure, and of the best ten"
    command(*words, "--baseline", "candidates")
    assert Evaluation.read(tmp_path / "out/result.json").baseline == "candidates"
    command(bundle, "--out", tmp_path / "one")
    assert Evaluation.read(tmp_path / "one/result.json").baseline == "candidates", "of a single system"
    status, _, said = command(*words, "--baseline", "bm25")
    assert (status, said) == (2, "crossrt: --baseline 'bm25': one of candidates, small.fp32, small.int8\n")


def test_bundles_of_one_name_are_told_apart_by_their_folders(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("old", "new"):
        shutil.copytree(bundle, tmp_path / folder / "minilm")
    paths = [str(tmp_path / folder / "minilm") for folder in ("old", "new")]
    assert [system.label for system in model_configs(paths, ["fp32"], Options())] == [
        "old-minilm.fp32",
        "new-minilm.fp32",
    ]
    with pytest.raises(OptionError, match="asked for twice"):
        model_configs([paths[0], paths[0]], ["fp32"], Options())
    monkeypatch.chdir(paths[0])
    assert [system.label for system in model_configs(["."], ["fp32"], Options())] == ["minilm.fp32"]


def test_texts_and_what_was_prepared_of_them_give_the_same_run(
    collect: Collect, bundle: Path, files: dict[str, Path], command: Command, tmp_path: Path
) -> None:
    opened = Bundle.open(bundle)
    tokenizer = Tokenizer.from_file(str(opened.tokenizer_file))
    prepare(files["passages"], tmp_path / "s", tokenizer, tokenizer_sha256=opened.tokenizer_sha256, limit=64)
    prepare(files["passages"], tmp_path / "other", tokenizer, tokenizer_sha256="0" * 64, limit=64)
    command(bundle, "--out", tmp_path / "texts")
    del files["passages"]
    status, _, said = command(bundle, "--out", tmp_path / "prepared", store=tmp_path / "s")
    assert status == 0, said
    runs = [(tmp_path / name / "bundle.fp32.run.trec").read_bytes() for name in ("texts", "prepared")]
    assert runs[0] == runs[1]
    status, _, said = command(bundle, "--out", tmp_path / "refused", store=tmp_path / "other")
    assert status == 1
    assert "other was prepared with another tokenizer than this model's" in said


KILLED = """
import os, signal, sys
from crossrt.__main__ import main
flush, times = os.fsync, [0]
def fsync(handle):
    # Of the evaluation's own files: hashes that the cache keeps are flushed too, or not, depending on a file's age.
    times[0] += os.path.realpath(f"/dev/fd/{{handle}}").startswith({out!r})
    if times[0] == {killed}:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(handle)
os.fsync = fsync
sys.argv = {words}
main()
"""


def test_a_killed_evaluation_ends_with_the_same_bytes(
    command: Command, two_precisions: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    words = (two_precisions, "--precision", "fp32,int8", "--measures", "AP RR@10")
    command(*words, "--out", tmp_path / "whole")
    out = tmp_path / "killed"
    given = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    # Each query is two flushes, of its lines and of the checkpoint: the first kill leaves lines of a query without its
    # checkpoint, the second one falls into the second system.
    for killed, runs, done in ((6, 0, 2), (13, 1, 2)):
        line = ["crossrt", "evaluate", *map(str, words), "--out", str(out), *given]
        child = subprocess.run(
            [sys.executable, "-c", KILLED.format(killed=killed, words=line, out=str(out.resolve()))],
            capture_output=True,
            check=False,
        )
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        assert len(list(out.glob("*.run.trec"))) == runs
        noted = [json.loads(path.read_text())["queries"] for path in sorted(out.glob(".*.checkpoint"))]
        assert noted[-1] == done
        assert not (out / "result.json").exists()
    status, _, said = command(*words, "--out", out)
    assert status == 0, said
    assert content(out) == content(tmp_path / "whole")


def test_a_finished_evaluation_is_measured_again_without_a_model(
    collect: Collect, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES)
    monkeypatch.setattr(ModelConfig, "open", lambda self: pytest.fail("opened"))
    again = evaluate(systems(bundle), collect(), tmp_path, measures=Measures.parse("P@1"))
    assert again.measures == ["P@1"]
    with pytest.raises(pytest.fail.Exception, match="opened"):
        evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES, restart=True)


def test_another_evaluation_in_the_folder_is_refused(collect: Collect, bundle: Path, tmp_path: Path) -> None:
    evaluate(systems(bundle), collect(limit=2), tmp_path, measures=MEASURES)
    evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES)
    before = content(tmp_path)
    for other, message in (
        ({"collection": collect(depth=5)}, "depth was None and is 5"),
        ({"collection": collect(limit=2)}, "holds 6 queries, and 2 are asked for"),
        ({"configs": systems(bundle, max_length=32)}, "max_length was 64 and is 32"),
        ({"configs": systems(bundle, batch_size=3)}, "batch size was 32 and is 3"),
    ):
        given = {"configs": systems(bundle), "collection": collect()} | other
        with pytest.raises(DataFileError, match=message):
            evaluate(folder=tmp_path, measures=MEASURES, **given)  # type: ignore[arg-type]
        assert content(tmp_path) == before
    evaluate(systems(bundle), collect(depth=5), tmp_path, measures=MEASURES, restart=True)


def test_changed_texts_and_another_model_are_another_evaluation(
    collect: Collect, bundle: Path, files: dict[str, Path], with_another: Callable[[str], Path], tmp_path: Path
) -> None:
    evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES)
    other = dataclasses.replace(systems(with_another("onnx/model.onnx"))[0], label="bundle.fp32")
    with pytest.raises(DataFileError, match=r"model was \w{8}\.\.\. and is \w{8}\.\.\."):
        evaluate([other], collect(), tmp_path, measures=MEASURES)
    text = files["passages"].read_text()
    files["passages"].write_text(text.replace("berlin", "Berlin", 1))
    with pytest.raises(DataFileError, match=r"other evaluation: passages was \w{8}\.\.\. and is \w{8}"):
        evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES)


def test_judgments_may_change_between_two_measurements(
    collect: Collect, bundle: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    before = evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES)
    files["qrels"].write_text(files["qrels"].read_text().replace(" 2\n", " 0\n"))
    after = evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES)
    assert before.rankings[1].run == after.rankings[1].run
    assert before.rankings[1].means != after.rankings[1].means


def test_a_list_shorter_than_the_streams_is_repeated_and_counted_once(
    collect: Collect, bundle: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no request is computed by the wide session, which a model opens only after its first such request."""
    files["run"].write_text("q0 Q0 p3 1 2 t\nq0 Q0 p4 2 1 t\nq1 Q0 p5 1 1 t\n")
    (plain,) = systems(bundle, max_length=11)
    wide = dataclasses.replace(plain, execution=dataclasses.replace(plain.execution, streams=5))
    for folder in ("plain", "wide"):
        (tmp_path / folder).mkdir()
    results = [evaluate([plain], collect(), tmp_path / "plain", measures=MEASURES)]
    asked: list[int] = []
    rank = CrossEncoder.rank

    def spied(self: CrossEncoder, query: str, documents: Any, **options: Any) -> Any:
        asked.append(len(documents))
        return rank(self, query, documents, **options)

    monkeypatch.setattr(CrossEncoder, "rank", spied)
    results.append(evaluate([wide], collect(), tmp_path / "wide", measures=MEASURES))
    for folder, result in zip(("plain", "wide"), results, strict=True):
        counted = result.rankings[-1].truncation
        assert counted is not None
        assert (counted.pairs, counted.cut) == (3, 3), "of the user's own pairs, all of which are longer than 11 tokens"
        noted = json.loads((tmp_path / folder / ".bundle.fp32.run.trec.checkpoint").read_text())["effort"]
        assert noted["pairs"] == 3
    assert asked == [6, 5], "whole copies of lists of two and one"
    runs = [read_run(tmp_path / folder / "bundle.fp32.run.trec") for folder in ("plain", "wide")]
    assert runs[0].keys() == runs[1].keys()
    for query, scores in runs[0].items():
        assert runs[1][query] == pytest.approx(scores, abs=1e-5)


def test_candidates_without_an_order_are_no_row(
    collect: Collect, bundle: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    rows = [line.split() for line in files["run"].read_text().splitlines()]
    files["run"].write_text("".join(f"{row[0]} Q0 {row[2]} 0 0.0 t\n" for row in rows))
    result = evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES)
    assert [ranking.label for ranking in result.rankings] == ["bundle.fp32"]
    with pytest.raises(OptionError, match=r"--baseline 'candidates': one of bundle\.fp32"):
        evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES, baseline="candidates")


def test_a_score_that_is_no_number_is_refused(
    collect: Collect, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relevance = CrossEncoder.relevance

    def overflowing(self: CrossEncoder, logits: Any, *arguments: Any, **options: Any) -> Any:
        scores = relevance(self, logits, *arguments, **options)
        scores[3] = float("inf")
        return scores

    monkeypatch.setattr(CrossEncoder, "relevance", overflowing)
    with pytest.raises(BackendError, match=r"bundle.fp32 scores passage p21 of query q0 as inf: numbers overflow"):
        evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES)


def test_every_model_is_opened_before_the_first_one_scores(
    collect: Collect, two_precisions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ModelConfig.open

    def failing(self: ModelConfig) -> CrossEncoder:
        if self.precision == "int8":
            raise BackendError("not here")
        return opened(self)

    monkeypatch.setattr(ModelConfig, "open", failing)
    with pytest.raises(BackendError, match="not here"):
        evaluate(systems(two_precisions, "fp32", "int8"), collect(), tmp_path, measures=MEASURES)
    assert not list(tmp_path.glob("*.run.trec"))


def test_exact_rankings_are_rows_with_the_ten_best_of_fp32(
    command: Command, rounded: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    words = ("--precision", "fp32,int8", "--exact", "--top-k", "3", "--backend", "onnxruntime", "--device", "cpu")
    status, printed, said = command(rounded, *words, "--out", tmp_path / "out", "--measures", "AP nDCG@3")
    assert status == 0, said
    result = Evaluation.read(tmp_path / "out/result.json")
    precise, cheap, exact = result.rankings[1:]
    assert (exact.label, exact.method) == ("rounded.int8.exact3", "exact top 3")
    assert precise.method is None
    runs = [
        {query: list(scores) for query, scores in read_run(tmp_path / f"out/{row.label}.run.trec").items()}
        for row in (precise, cheap, exact)
    ]
    others = 0
    for query, ids in runs[0].items():
        assert runs[2][query][:3] == ids[:3], "FP32's best"
        assert runs[2][query][3:] == [name for name in runs[1][query] if name not in ids[:3]], "INT8's order below"
        others += runs[1][query][:3] != ids[:3]
    assert others, "int8 alone ranks others best in some lists"
    assert exact.means["nDCG@3"] == precise.means["nDCG@3"]
    # Independently of `Agreement`.
    tens = [(runs[0][query], runs[1][query]) for query in runs[0]]
    assert cheap.agreement is not None
    assert cheap.agreement.kept == 1, "lists of ten passages have the same best ten"
    assert cheap.agreement.same == sum(theirs == ours for theirs, ours in tens) / len(tens) < 1
    assert precise.agreement is None
    for row in (precise, cheap, exact):
        assert row.pairs_per_s is not None
        assert row.pairs_per_s > 0
        assert row.truncation == Truncation(pairs=60)
        assert f"{row.label}  " in printed.partition("top 10 kept")[2]
    assert str(result) in printed
    # What it ranks like depends on more than the int8 file.
    noted = json.loads((tmp_path / "out/.rounded.int8.exact3.run.trec.checkpoint").read_text())["work"]
    assert noted["bundle"] == sha256_of(rounded / MANIFEST)


def test_cascades_are_rows_and_end_with_what_was_not_kept(
    command: Command, bundle: Path, rounded: Path, tmp_path: Path
) -> None:
    words = (bundle, "--first", rounded, "--keep", "2,4", "--device", "cpu", "--out", tmp_path / "out")
    status, _, said = command(*words)
    assert status == 0, said
    result = Evaluation.read(tmp_path / "out/result.json")
    labels = ["bundle.fp32", "rounded.fp32"]
    labels += [f"rounded.fp32+bundle.fp32.keep{count}" for count in (2, 4)]
    assert [row.label for row in result.rankings] == ["candidates", *labels]
    assert result.baseline == "bundle.fp32"
    assert [row.method for row in result.rankings[3:]] == ["best 2 of rounded.fp32", "best 4 of rounded.fp32"]
    large, small, *cascades = (read_run(tmp_path / f"out/{label}.run.trec") for label in labels)
    for count, cascade in zip((2, 4), cascades, strict=True):
        for query, scores in cascade.items():
            kept = list(small[query])[:count]
            assert list(scores) == [name for name in large[query] if name in kept] + list(small[query])[count:]
            assert {name: scores[name] for name in kept} == pytest.approx({name: large[query][name] for name in kept})
    before = content(tmp_path / "out")
    assert command(*words)[0] == 0
    assert content(tmp_path / "out") == before, "nothing is computed again"


def test_what_was_not_kept_has_scores_that_trec_eval_tells_apart() -> None:
    rest = {"a": 3.0, "d": 2e-9, "c": 1e-9, "b": -11.0}  # lowered by the same number, d and c are equal in 32 bits
    for lowest in (-7.25, -7.0):
        followed = _followed({"a": lowest}, rest)
        assert list(followed) == ["a", "d", "c", "b"]
        assert followed["a"] == lowest
        in_trec_eval = [np.float32(score) for score in followed.values()]
        assert all(one > other for one, other in itertools.pairwise(in_trec_eval))


def test_a_try_out_of_a_cascade_goes_on_to_the_whole(
    command: Command, bundle: Path, rounded: Path, tmp_path: Path
) -> None:
    words = (bundle, "--first", rounded, "--keep", "3", "--device", "cpu")
    command(*words, "--out", tmp_path / "whole")
    command(*words, "--out", tmp_path / "stopped", "--limit", "2")
    assert command(*words, "--out", tmp_path / "stopped")[0] == 0
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_windows_score_what_would_be_cut(
    command: Command, bundle: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    lines = files["passages"].read_text().splitlines()
    files["passages"].write_text(
        "".join(f"{line}{' green river' * 50 * (row % 2)}\n" for row, line in enumerate(lines))
    )
    assert command(bundle, "--device", "cpu", "--out", tmp_path / "cut")[0] == 0
    windows = ("--window", "32", "--stride", "16", "--aggregate", "mean:2")
    assert command(bundle, "--device", "cpu", "--out", tmp_path / "windows", *windows)[0] == 0
    cut, whole = (Evaluation.read(tmp_path / name / "result.json").rankings[1] for name in ("cut", "windows"))
    assert cut.truncation is not None
    assert cut.truncation.cut == 30
    assert cut.truncation.tokens > 30 * 30
    assert whole.truncation is not None
    assert whole.truncation.cut == 0
    assert whole.pairs_per_s is not None
    assert whole.pairs_per_s > 0, "of passages, not of windows"
    texts = dict(line.split("\t") for line in files["passages"].read_text().splitlines())
    run = read_run(tmp_path / "windows/bundle.fp32.run.trec")
    with CrossEncoder(bundle, device="cpu") as model:
        query = next(line.split("\t")[1] for line in files["queries"].read_text().splitlines() if line.startswith("q0"))
        found = model.rank(
            query, [texts[name] for name in run["q0"]], windows=Windows(length=32, stride=16, aggregate="mean:2")
        )
    assert list(run["q0"].values()) == [each["score"] for each in found]
    status, _, said = command(bundle, "--device", "cpu", "--out", tmp_path / "cut", *windows)
    assert status == 1
    assert "windows was None and is 32 tokens, stride 16, mean:2" in said


def test_a_bundle_without_the_precision_is_named(command: Command, bundle: Path, tmp_path: Path) -> None:
    status, _, said = command(bundle, "--precision", "fp32,int8", "--out", tmp_path / "out")
    assert status == 1
    assert said.startswith(
        f"crossrt: {bundle} holds no int8 model; it holds fp32. Make one that does with: crossrt export C"
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(BundleError):
        systems(bundle, "int8")
    assert command(bundle, "--precision", "half", "--out", tmp_path / "out")[0] == 2


def test_runs_that_a_result_leaves_out_are_named(command: Command, two_precisions: Path, tmp_path: Path) -> None:
    for precision in ("fp32,int8", "int8"):
        status, _, said = command(two_precisions, "--precision", precision, "--out", tmp_path / "out")
        assert status == 0
        assert ("earlier runs" in said) == (precision == "int8")
    assert said.endswith("earlier runs, which the result leaves out, of small.fp32\n")


@pytest.mark.parametrize("name", [".lock", ".bundle.fp32.run.trec.partial"])
def test_a_link_under_a_name_that_others_can_guess_is_not_followed(
    command: Command, bundle: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out" / name).symlink_to(tmp_path / "precious")
    if name != ".lock":
        checkpoint = tmp_path / "out" / name.replace("partial", "checkpoint")
        checkpoint.symlink_to(tmp_path / "precious")
    status, _, said = command(bundle, "--out", tmp_path / "out", "--force")
    assert (tmp_path / "precious").read_text() == "precious"
    if name == ".lock":
        assert status == 1
        assert "is a symbolic link, which is not followed here; remove it" in said
    else:
        assert status == 0, "--force removes what is in the way"


def test_a_folder_that_cannot_be_written_is_named(command: Command, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        status, _, said = command(bundle, "--out", out)
        assert status == 1
        assert said.startswith(f"crossrt: --out {out} cannot be written to (")
    with (
        locked_folder(tmp_path / "out"),
        pytest.raises(DataFileError, match="is in use by another evaluation"),
        locked_folder(tmp_path / "out"),
    ):
        pass


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dataset", "x"), "give --dataset, or --queries, --passages and --qrels, not both"),
        (("--measures", "nDCG@"), "'nDCG@' cannot be computed"),
        (("--top-k", "3"), "--top-k goes with --exact"),
        (("--exact",), "FP32 is exact; name a cheaper precision too"),
        (("--first", "x"), "--first BUNDLE and --keep N go together"),
        (("--keep", "x"), "--first BUNDLE and --keep N go together"),
        (("--stride", "3"), "--stride and --aggregate go with --window"),
        (("--depth", "0"), "--depth 0: give a whole number from 1"),
        (("--store", "nothing"), "is not a store of prepared passages|one of them"),
        (("--bm25",), "--bm25 makes a run, and --run gives one; leave out one of them"),
    ],
)
def test_wrong_words_are_explained(
    command: Command, bundle: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    status, _, said = command(bundle, "--out", tmp_path / "out", *words)
    assert status == 2
    assert any(part in said for part in message.split("|"))


def test_a_model_does_not_stand_in_front_of_itself(command: Command, bundle: Path, tmp_path: Path) -> None:
    status, _, said = command(bundle, "--first", bundle, "--keep", "2", "--out", tmp_path / "out")
    assert (status, "cannot stand in front of itself" in said) == (2, True)


def test_help_has_examples(command: Command) -> None:
    status, printed, _ = command("--help")
    assert status == 0
    assert "Examples:" in printed


def test_files_that_are_missing_on_the_command_line_are_asked_for(
    command: Command, bundle: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    del files["qrels"]
    status, _, said = command(bundle, "--out", tmp_path / "out")
    assert (status, said) == (
        2,
        "crossrt: give --dataset ID, or --queries, --qrels and one of --passages and --store\n",
    )


def test_a_result_of_another_kind_or_schema_is_refused(collect: Collect, bundle: Path, tmp_path: Path) -> None:
    result = evaluate(systems(bundle), collect(), tmp_path, measures=MEASURES)
    file = tmp_path / "result.json"
    assert Evaluation.read(file) == result
    for text, message in (
        (dataclasses.replace(result, schema=2).to_json(), r"result.json has schema 2, and this crossrt reads 1"),
        (dataclasses.replace(result, kind="bench").to_json(), r"is not a result of crossrt evaluate"),
        (result.to_json().replace('"label"', '"name"'), r"does not have the fields of schema 1"),
        (re.sub(r'"pairs_per_s": [\d.]+', '"pairs_per_s": NaN', result.to_json()), "should be a finite number"),
        ("[]", "is not a result of crossrt evaluate"),
        ("{", "is not JSON"),
    ):
        file.write_text(text)
        with pytest.raises(DataFileError, match=message):
            Evaluation.read(file)
    file.unlink()
    with pytest.raises(DataFileError, match="cannot be read"):
        Evaluation.read(file)
