"""The command line as a person or a program meets it."""

import gzip
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt import CrossEncoder
from crossrt.engine.bundle.manifest import SCHEMA
from crossrt.engine.cascade import Cascade

PASSAGES = ["berlin is a city", "the river is long and green", "people live in paris", "eggs and salt"]


def crossrt(*words: object, stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "crossrt", *map(str, words)]
    child = subprocess.run(command, input=stdin, capture_output=True, check=False)
    return subprocess.CompletedProcess(command, child.returncode, child.stdout.decode(), child.stderr.decode())


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Write queries, passages and a run of two queries with three candidates each."""
    contents = {
        "queries": "1\twhere is the river\n2\thow long do people live\n",
        "passages": "".join(f"p{number}\t{text}\n" for number, text in enumerate(PASSAGES)),
        "run": "".join(
            f"{query} Q0 p{number} {number + 1} {9 - number} bm25\n" for query in (1, 2) for number in range(3)
        ),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    return {name: tmp_path / name for name in contents}


def rerank_words(bundle: Path, files: dict[str, Path], out: Path) -> Sequence[object]:
    return (
        "rerank",
        bundle,
        "--queries",
        files["queries"],
        "--passages",
        files["passages"],
        "--run",
        files["run"],
        "--out",
        out,
    )


def test_help_begins_with_what_comes_first_and_loads_little() -> None:
    listed = crossrt("--help").stdout.partition("Commands:")[2].split()
    assert listed[0] == "export"
    loaded = "import sys, crossrt.__main__; print(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "onnxruntime"} & {*child.stdout.split()}


def test_help_has_examples_for_every_command() -> None:
    assert crossrt("--help").returncode == 0
    for command in ("export", "rank", "rerank", "parity", "info"):
        shown = crossrt(command, "--help")
        assert shown.returncode == 0
        assert "Example" in shown.stdout
    assert crossrt("--version").stdout.startswith("crossrt 0.")


@pytest.mark.parametrize("words", [("nonsense",), ("rank",), ("info", "x", "--nonsense")])
def test_wrong_words_exit_with_2(words: Sequence[str]) -> None:
    assert crossrt(*words).returncode == 2


def test_a_wrong_value_exits_with_2_and_a_failure_with_1_without_a_traceback(bundle: Path, tmp_path: Path) -> None:
    wrong = crossrt("rank", bundle, "q", "-", "--threads", "0", stdin=b"a\n")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "threads=0" in wrong.stderr
    # Python's rank(top_k=0) gives an empty list, as in sentence-transformers; an empty table would look like no result.
    none = crossrt("rank", bundle, "q", "-", "--top-k", "0", stdin=b"a\n")
    assert (none.returncode, none.stdout) == (2, "")
    assert "--top-k" in none.stderr
    swapped = crossrt("rank", bundle, __file__, "a query")
    assert swapped.returncode == 2
    assert "there is no file 'a query'" in swapped.stderr
    failed = crossrt("info", tmp_path / "nothing")
    assert failed.returncode == 1
    assert failed.stderr.startswith("crossrt: ")
    assert "Traceback" not in wrong.stderr + failed.stderr
    assert "Traceback" in crossrt("--debug", "info", tmp_path / "nothing").stderr


def test_export_prints_the_report_and_info_what_was_made(checkpoint: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("where is the river\tthe river is long\n")
    made = crossrt("export", checkpoint, tmp_path / "bundle", "--pairs", pairs)
    assert made.returncode == 0, made.stderr
    assert "parity passed: fp32 on onnxruntime" in made.stdout
    assert made.stderr == "", "no progress bar where no person looks"
    info = crossrt("info", tmp_path / "bundle", "--verify")
    assert info.returncode == 0
    for part in (
        "bert, 2 layers x 32",
        "activation identity",
        "parity passed",
        "sizes and sha256 agree",
        "here",
        "crossrt tune measures what is fastest",
    ):
        assert part in info.stdout
    assert json.loads(crossrt("info", tmp_path / "bundle", "--json").stdout)["schema"] == SCHEMA
    again = crossrt("export", checkpoint, tmp_path / "bundle")
    assert again.returncode == 1
    assert "--force" in again.stderr


def test_export_says_what_it_cannot_export(checkpoint: Path, tmp_path: Path) -> None:
    assert "nor a hub id" in crossrt("export", "/no/such", tmp_path / "b").stderr
    for words, said in (
        (("--activation", "relu"), "unknown activation 'relu'; one of identity, sigmoid, softmax, tanh"),
        (("--activation", "softmax"), "softmax over one label is 1 for every pair"),
        (("--precision", "fp32,auto"), "unknown precision 'auto'; one of fp32, bf16, fp16, int8"),
    ):
        failed = crossrt("export", checkpoint, tmp_path / "b", *words)
        assert failed.returncode == 2
        assert said in failed.stderr
    for command in (("info", checkpoint), ("parity", checkpoint, "--against", checkpoint)):
        assert f"Make one with: crossrt export {checkpoint} OUT" in crossrt(*command).stderr
    refused = crossrt("export", checkpoint, tmp_path / "b", "--precision", "half").stderr
    assert "unknown precision 'half'; one of fp32, bf16, fp16, int8" in refused
    assert "go together" in crossrt("export", checkpoint, tmp_path / "b", "--queries", "q").stderr
    assert "unknown exporter" in crossrt("export", checkpoint, tmp_path / "b", "--exporter", "magic").stderr
    assert not (tmp_path / "b").exists()


def test_parity_passes_for_its_checkpoint_and_exits_with_1_for_another(
    bundle: Path, checkpoint: Path, make_checkpoint: Any, tmp_path: Path
) -> None:
    assert crossrt("parity", bundle, "--against", checkpoint).returncode == 0
    other = crossrt("parity", bundle, "--against", make_checkpoint(seed=77), "--json")
    assert other.returncode == 1
    assert json.loads(other.stdout)["failures"]
    larger = crossrt("parity", bundle, "--against", make_checkpoint(num_hidden_layers=3, intermediate_size=96))
    assert larger.returncode == 1
    assert "not the same model: layers is 2 and 3, intermediate_size is 64 and 96" in larger.stderr


def test_rank_lets_a_first_bundle_cut_the_list(
    bundle: Path, make_bundle: Callable[..., Path], tmp_path: Path, model: CrossEncoder
) -> None:
    (tmp_path / "passages").write_text("\n".join(PASSAGES))
    words = (
        "rank",
        bundle,
        "where is the river",
        tmp_path / "passages",
        "--json",
        "--first",
        small := make_bundle(seed=9),
    )
    with CrossEncoder(small, device="cpu") as first:
        expected = Cascade(first, model, keep=2).rank("where is the river", PASSAGES)
    found = json.loads(crossrt(*words, "--keep", "2").stdout)
    assert [row["id"] for row in found] == [str(entry["corpus_id"] + 1) for entry in expected]
    np.testing.assert_allclose([row["score"] for row in found], [entry["score"] for entry in expected], atol=2e-5)
    refused = crossrt(*words)
    assert refused.returncode == 2
    assert "--first BUNDLE and --keep N go together" in refused.stderr


def test_rank_reads_lines_or_tsv_from_a_file_or_stdin(bundle: Path, tmp_path: Path, model: CrossEncoder) -> None:
    expected = model.rank("where is the river", PASSAGES)
    lines = "\n".join(PASSAGES).encode()
    tsv = "\n".join(f"id{number}\t{text}" for number, text in enumerate(PASSAGES)).encode()
    (tmp_path / "passages").write_bytes(tsv)
    from_stdin = json.loads(crossrt("rank", bundle, "where is the river", "--json", stdin=lines).stdout)
    from_file = json.loads(crossrt("rank", bundle, "where is the river", tmp_path / "passages", "--json").stdout)
    assert [row["id"] for row in from_stdin] == [str(entry["corpus_id"] + 1) for entry in expected]
    assert [row["id"] for row in from_file] == [f"id{entry['corpus_id']}" for entry in expected]
    np.testing.assert_allclose([row["score"] for row in from_file], [entry["score"] for entry in expected], atol=2e-5)
    table = crossrt("rank", bundle, "where is the river", tmp_path / "passages", "--top-k", "2").stdout.splitlines()
    assert len(table) == 3
    assert table[0].split() == ["rank", "score", "id", "passage"]
    long = "".join(f"the river is long {'and green ' * 40}{number}\n" for number in range(3)).encode()
    for row in crossrt("rank", bundle, "river", "-", stdin=long).stdout.splitlines()[1:]:
        place, score, name, *_ = row.split()
        assert place.isdigit()
        assert np.isfinite(float(score))
        assert name.isdigit()
        assert row.endswith("…")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"fine\n\xff\xfe\n", "line 2: byte 1 is not valid UTF-8")],
)
def test_passages_that_cannot_be_read_are_named(bundle: Path, content: bytes, message: str) -> None:
    ranked = crossrt("rank", bundle, "q", "-", stdin=content)
    assert ranked.returncode == 1
    assert message in ranked.stderr
    assert "standard input" in ranked.stderr


def piped_into(reader: str, *words: object, errors_too: bool = False) -> tuple[list[int], str]:
    """Run the command with its output in a pipe; return the statuses of both, and what came on standard error."""
    command = shlex.join([sys.executable, "-m", "crossrt", *map(str, words)]) + (" 2>&1" if errors_too else "")
    script = f'{command} | {reader} > /dev/null; echo "${{PIPESTATUS[@]}}"'
    child = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return [int(status) for status in child.stdout.split()], child.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly_as_sigpipe_does(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "passages").write_text("the river is long\n" * 20_000)
    words = ("rank", bundle, "q", tmp_path / "passages", "--json", "--max-length", "8")
    assert piped_into("head -c 10", *words) == ([141, 0], "")


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("info",), ("info", "--json"), ("rank",)])
def test_every_command_that_prints_ends_quietly_when_nobody_reads(
    words: Sequence[str], bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "passages").write_text("the river is long\n")
    more: list[object] = {"info": [bundle], "rank": [bundle, "q", tmp_path / "passages"]}.get(words[0], [])
    # A reader that never was: the pipe is closed before the first byte.
    assert piped_into("exec true", *words, *more) == ([141, 0], "")


def test_errors_that_nobody_reads_end_the_command_quietly_too(tmp_path: Path) -> None:
    assert piped_into("exec true", "info", tmp_path / "nothing", errors_too=True) == ([141, 0], "")


@pytest.mark.parametrize(
    ("closed", "status", "out", "error"),
    [
        ("2>&-", 0, "one", ""),
        (">&-", 1, "", "crossrt: standard output: Bad file descriptor"),
        ("<&-", 1, "", "standard input is empty"),
    ],
)
def test_a_command_may_be_started_with_closed_streams(
    bundle: Path, tmp_path: Path, closed: str, status: int, out: str, error: str
) -> None:
    passages = tmp_path / "passages"
    passages.write_text("one\ntwo\n")
    file = "-" if closed == "<&-" else str(passages)
    shell = [
        "bash",
        "-c",
        f'exec "$0" -m crossrt rank "$1" one "$2" --top-k 2 {closed}',
        sys.executable,
        str(bundle),
        file,
    ]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, out in done.stdout, error in done.stderr) == (status, True, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "latin-1", "C"],
)
def test_a_terminal_that_cannot_show_a_text_gets_the_rest_and_the_same_scores(
    bundle: Path, locale: dict[str, str]
) -> None:
    def ranked(environment: dict[str, str], *words: str) -> tuple[bytes, bytes]:
        command = [sys.executable, "-m", "crossrt", "rank", str(bundle), "caf\u00e9 \u03b6", "-", *words]
        text = "caf\u00e9 \u03b6\ncity\n".encode()
        child = subprocess.run(command, input=text, capture_output=True, check=True, env=os.environ | environment)
        return child.stdout, child.stderr

    usual = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    expected = json.loads(ranked(usual, "--json")[0])
    shown, said = ranked(locale, "--json")
    assert said == b""
    assert json.loads(shown.decode("ascii")) == expected
    table, said = ranked(locale)
    assert said == b""
    assert b"\\u03b6" in table
    assert {line.split()[2] for line in table.splitlines()[1:]} == {b"1", b"2"}
    assert "\u03b6".encode() in ranked(usual)[0]


def test_a_name_that_the_terminal_cannot_show_is_no_traceback(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "crossrt", "info", str(tmp_path / "\u03b6")]
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert child.returncode == 1
    assert child.stderr.startswith("crossrt: ")
    assert "\\u03b6" in child.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"id": 1, "text": "a river"}\n{"id": 2, "body": "a city"}\n',
            "line 2: expected `id <tab> text`, or a JSON object",
        ),
        ('[\n {"text": "a river"},\n {"text": "a city"}\n]\n', "is JSON, which begins '['"),
        ('["a river", "a city"]\n', "is JSON"),
        ("1\ttitle\ta river\n2\ttitle\ta city\n", "every line has 3 columns, and `id <tab> text` has 2"),
        ("1\turl\ttitle\ta river\n", "every line has 4 columns"),
        ('"id","text"\r\n1,a river\r\n', 'line 1: \'"id","text"\' is a header and not a passage; convert CSV'),
        (
            "".join(f"d{number}\ta river\n" for number in range(20)) + "d20\n",
            "line 21: expected `id <tab> text`, as in 20 other lines, got 'd20'",
        ),
        ("pid\tPassage\n1\ta river\n", "line 1: 'pid\\tPassage' is a header and not a passage; remove this line"),
    ],
)
def test_passages_in_another_form_are_refused_with_what_was_seen(bundle: Path, content: str, message: str) -> None:
    ranked = crossrt("rank", bundle, "q", "-", stdin=content.encode())
    assert (ranked.returncode, ranked.stdout) == (1, "")
    assert message in ranked.stderr
    assert "standard input" in ranked.stderr


def test_passages_may_be_json_lines(bundle: Path, tmp_path: Path) -> None:
    texts = ["a river", "a city", "green water"]
    plain = crossrt("rank", bundle, "river", "-", "--json", stdin="\n".join(texts).encode())
    objects = "\n".join(json.dumps({"text": text}) for text in texts)
    assert crossrt("rank", bundle, "river", "-", "--json", stdin=objects.encode()).stdout == plain.stdout
    with_ids = "\n".join(json.dumps({"_id": f"d{n}", "text": text}) for n, text in enumerate(texts))
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(with_ids.encode()))
    rows = json.loads(crossrt("rank", bundle, "river", tmp_path / "p.jsonl.gz", "--json").stdout)
    assert {row["id"]: row["text"] for row in rows} == {f"d{n}": text for n, text in enumerate(texts)}
    assert [row["score"] for row in rows] == [row["score"] for row in json.loads(plain.stdout)]


@pytest.mark.parametrize(
    "content",
    [
        "{not json}\na river\n",
        "[1] a river\n[2] a city\n",
        "1\ta\triver\n2\tcity\n",
        '"quoted"\n',
        "17\n",
        "text\n",
        "a text, with an id\n",
        "a river\twith a tab\n" * 30 + "d20\n",
    ],
)
def test_passages_that_only_look_like_another_form_are_ranked(bundle: Path, content: str) -> None:
    ranked = crossrt("rank", bundle, "q", "-", "--json", stdin=content.encode())
    assert ranked.returncode == 0, ranked.stderr
    assert len(json.loads(ranked.stdout)) == content.count("\n")


def test_rerank_writes_a_run_that_trec_tools_read(
    bundle: Path, files: dict[str, Path], tmp_path: Path, model: CrossEncoder
) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    out = tmp_path / "out.trec"
    done = crossrt(*rerank_words(bundle, files, out), "--tag", "mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    rows = list(ir_measures.read_trec_run(str(out)))
    assert len(rows) == 6
    expected = model.predict([("where is the river", text) for text in PASSAGES[:3]])
    got = {row.doc_id: row.score for row in rows if row.query_id == "1"}
    np.testing.assert_allclose([got[f"p{number}"] for number in range(3)], expected, atol=2e-5)
    lines = [line.split() for line in out.read_text().splitlines()]
    assert [line[3] for line in lines] == ["1", "2", "3"] * 2
    assert {line[5] for line in lines} == {"mine"}


def test_rerank_to_a_depth_scores_the_best_candidates_of_the_run_and_leaves_the_rest_out(
    bundle: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    # Not in the order of their scores, of which two are equal: trec_eval puts the greater id first.
    scores = {1: {"p0": 1.0, "p1": 3.0, "p2": 2.0}, 2: {"p0": 5.0, "p3": 4.0, "p1": 4.0}}
    files["run"].write_text(
        "".join(f"{query} Q0 {name} 1 {score} t\n" for query, found in scores.items() for name, score in found.items())
    )
    out = tmp_path / "out.trec"
    done = crossrt(*rerank_words(bundle, files, out), "--depth", "2")
    assert done.returncode == 0, done.stderr
    assert "2 queries, 4 passages" in done.stderr
    kept = [tuple(line.split()[:3:2]) for line in out.read_text().splitlines()]
    assert sorted(kept) == [("1", "p1"), ("1", "p2"), ("2", "p0"), ("2", "p3")]
    whole = tmp_path / "whole.trec"
    for depth in ("3", "99"):
        assert crossrt(*rerank_words(bundle, files, whole), "--depth", depth).returncode == 0
        assert len(whole.read_text().splitlines()) == 6
    shared = [line.split() for line in whole.read_text().splitlines() if tuple(line.split()[:3:2]) in kept]
    cut = [line.split() for line in out.read_text().splitlines()]
    assert [line[:3] for line in cut] == [line[:3] for line in shared]
    np.testing.assert_allclose([float(line[4]) for line in cut], [float(line[4]) for line in shared], atol=2e-5)


@pytest.mark.parametrize("depth", ["0", "-1", "many"])
def test_a_depth_that_is_none_exits_with_2(bundle: Path, files: dict[str, Path], tmp_path: Path, depth: str) -> None:
    wrong = crossrt(*rerank_words(bundle, files, tmp_path / "out.trec"), "--depth", depth)
    assert wrong.returncode == 2
    assert "--depth" in wrong.stderr
    assert not (tmp_path / "out.trec").exists()


def test_a_depth_of_a_run_without_an_order_exits_with_2(bundle: Path, files: dict[str, Path], tmp_path: Path) -> None:
    files["run"].write_text("".join(f"1 Q0 p{number} 1 0 t\n" for number in range(3)))
    wrong = crossrt(*rerank_words(bundle, files, tmp_path / "out.trec"), "--depth", "2")
    assert wrong.returncode == 2
    assert "are all alike" in wrong.stderr


def test_rank_and_rerank_take_a_hub_id_as_it_is_in_a_cache_without_asking_the_hub(
    checkpoint: Path, files: dict[str, Path], tmp_path: Path, bundle: Path
) -> None:
    commit, cache = "0123456789" * 4, tmp_path / "hub"
    repository = cache / "models--someone--reranker"  # as huggingface_hub lays a repository out
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/tested").write_text(commit)
    shutil.copytree(checkpoint, repository / "snapshots" / commit)
    hub = ("--cache-folder", cache, "--local-files-only", "--revision", "tested")
    text = b"the river is long\ncity\n"
    ranked = crossrt("rank", "someone/reranker", "river", "-", "--json", *hub, stdin=text)
    assert ranked.returncode == 0, ranked.stderr
    expected = json.loads(crossrt("rank", bundle, "river", "-", "--json", stdin=text).stdout)
    found = json.loads(ranked.stdout)
    assert [row["id"] for row in found] == [row["id"] for row in expected]
    np.testing.assert_allclose([row["score"] for row in found], [row["score"] for row in expected], atol=2e-5)
    words = list(rerank_words(bundle, files, tmp_path / "out.trec"))
    words[1] = "someone/reranker"
    assert crossrt(*words, *hub).returncode == 0
    absent = crossrt("rank", "someone/reranker", "river", "-", *hub[:-1], "other", stdin=text)
    assert absent.returncode == 1
    assert "someone/reranker could not be downloaded from the hub" in absent.stderr


@pytest.mark.parametrize("command", ["rank", "rerank", "evaluate", "bench"])
def test_options_of_a_hub_id_that_fit_nothing_exit_with_2(
    bundle: Path, files: dict[str, Path], tmp_path: Path, command: str
) -> None:
    words: dict[str, Sequence[object]] = {
        "rank": ("rank", bundle, "q", files["passages"]),
        "rerank": rerank_words(bundle, files, tmp_path / "out.trec"),
        "evaluate": ("evaluate", bundle, "--out", tmp_path / "quality"),
        "bench": ("bench", bundle),
    }
    wrong = crossrt(*words[command], "--revision", "main")
    assert wrong.returncode == 2
    assert f"--revision 'main': {bundle} is a directory; give the branch, tag or commit of a hub id" in wrong.stderr
    wrong = crossrt(*words[command], "--cache-folder", files["run"])
    assert wrong.returncode == 2
    assert "is a file" in wrong.stderr
    assert crossrt(*words[command], "--trust-engines=yes").returncode == 2


def test_the_shell_completes_commands_and_their_options(tmp_path: Path) -> None:
    # typer looks for a shell among the parent processes. `:` keeps bash from being replaced by its only command.
    shown = ["bash", "-c", '"$0" -m crossrt --show-completion; :', sys.executable]
    assert "_CROSSRT_COMPLETE" in subprocess.run(shown, capture_output=True, text=True).stdout
    completing = {"_CROSSRT_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    for typed, found in (("crossrt re", {"rerank", "report"}), ("crossrt --ver", {"--version"})):
        environment = os.environ | completing | {"COMP_WORDS": typed}
        child = subprocess.run(
            [sys.executable, "-c", "import sys; sys.argv = ['crossrt']; from crossrt.__main__ import main; main()"],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert set(child.stdout.split()) == found


def test_rerank_from_a_prepared_store_writes_the_same_run(bundle: Path, files: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "passages.store"
    prepared = crossrt("prepare", bundle, files["passages"], store)
    assert prepared.returncode == 0, prepared.stderr
    assert f"{store}: {len(PASSAGES)} passages" in prepared.stderr
    assert crossrt(*rerank_words(bundle, files, tmp_path / "texts.trec")).returncode == 0
    words = [str(word) for word in rerank_words(bundle, files, tmp_path / "store.trec")]
    at = words.index("--passages")
    done = crossrt(*words[:at], "--store", store, *words[at + 2 :])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store.trec").read_text() == (tmp_path / "texts.trec").read_text()
    assert "one of them" in crossrt(*words, "--store", store).stderr
    assert "one of them" in crossrt(*words[:at], *words[at + 2 :]).stderr
    again = crossrt("prepare", bundle, files["passages"], store)
    assert again.returncode == 1
    assert "--force" in again.stderr
    files["run"].write_text("1 Q0 p99 1 1.0 t\n")
    absent = crossrt(*words[:at], "--store", store, *words[at + 2 :])
    assert absent.returncode == 1
    assert "holds no passage 'p99'" in absent.stderr


def test_tune_measures_what_is_installed_and_what_opens_next_obeys_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CROSSRT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert "not tuned; crossrt tune measures what is fastest" in crossrt("info", bundle).stdout
    tuned = crossrt("tune", bundle)
    assert tuned.returncode == 0, tuned.stderr
    rows = tuned.stdout.splitlines()
    assert {row.split()[0] for row in rows[1:]} == {"onnxruntime", "openvino"}
    [kept] = [row.split() for row in rows if "<- kept" in row]
    [file] = (tmp_path / ".cache/crossrt/tunings").iterdir()
    assert str(file) in tuned.stderr
    stored = json.loads(file.read_text())["tuning"]
    assert [stored["backend"], str(stored["streams"]), str(stored["batch_size"])] == kept[:3]
    shown = crossrt("info", bundle).stdout
    assert f"fp32 on {kept[0]}" in shown
    assert "the fastest that crossrt tune measured here" in shown
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("no tab here\n")
    failed = crossrt("tune", bundle, "--pairs", pairs)
    assert failed.returncode == 1
    assert "pairs.tsv, line 1" in failed.stderr


@pytest.mark.skipif(shutil.which("taskset") is None, reason="taskset is not installed")
def test_a_process_bound_to_one_processor_uses_one(bundle: Path) -> None:
    command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-m", "crossrt"]
    shown = subprocess.run([*command, "info", bundle], capture_output=True, text=True, check=True).stdout
    assert "1 of 1 usable processors, 1 stream" in shown
    ranked = subprocess.run(
        [*command, "rank", bundle, "river", "-"], input="\n".join(PASSAGES), capture_output=True, text=True, check=True
    )
    assert ranked.stdout.count("\n") == 1 + len(PASSAGES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run", "1 Q0 p9 1 1.0 t\n", "passage(s) of query 1 are not in"),
        ("run", "7 Q0 p1 1 1.0 t\n", "query 7 is not in"),
        ("run", "", "is empty"),
        ("passages", "p1\ta\np1\tb\n", "line 2: the id p1 comes a second time"),
        ("queries", "no tab\n", "line 1: expected `id <tab> text`"),
    ],
)
def test_rerank_names_the_line_and_leaves_the_old_output(
    bundle: Path, files: dict[str, Path], tmp_path: Path, name: str, content: str, message: str
) -> None:
    files[name].write_text(content)
    out = tmp_path / "out.trec"
    out.write_text("old")
    failed = crossrt(*rerank_words(bundle, files, out))
    assert failed.returncode == 1
    assert message in failed.stderr
    assert out.read_text() == "old"
    assert not list(tmp_path.glob(".*partial"))


def test_an_output_goes_where_it_is_sent(bundle: Path, files: dict[str, Path], tmp_path: Path) -> None:
    words = rerank_words(bundle, files, tmp_path / "out.trec")
    assert crossrt(*words).returncode == 0
    run = (tmp_path / "out.trec").read_text()
    for out in ("-", "/dev/stdout"):
        done = crossrt(*words[:-1], out)
        assert (done.returncode, done.stdout) == (0, run), done.stderr
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        assert crossrt(*words[:-1], tmp_path / "pipe").returncode == 0
        assert reader.communicate()[0] == run
    full = crossrt(*words[:-1], "/dev/full")
    assert (full.returncode, full.stderr) == (1, "crossrt: /dev/full: No space left on device\n")
    results = Path(__file__).resolve().parent.parent / "benchmarks/results"
    page = crossrt("report", results / "cpu.json", "--out", "-").stdout
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing_or_what_the_next_one_clears(
    bundle: Path, files: dict[str, Path], tmp_path: Path, kind: signal.Signals
) -> None:
    lines = "".join(f"{query} Q0 p{number} 1 1.0 t\n" for query in range(3000) for number in range(4))
    long, queries = tmp_path / "long run", tmp_path / "long queries"
    long.write_text(lines)
    queries.write_text("".join(f"{query}\twhere is the river {query}\n" for query in range(3000)))
    (tmp_path / "results").mkdir()
    out = tmp_path / "results/out.trec"
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "crossrt",
            *map(str, rerank_words(bundle, files | {"run": long, "queries": queries}, out)),
        ]
    )
    deadline = time.monotonic() + 60
    while not list(out.parent.glob(".out.trec.*.partial")):
        assert child.poll() is None, "rerank ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(kind)
    assert child.wait() == (143 if kind == signal.SIGTERM else -kind)
    assert len(list(out.parent.iterdir())) == (0 if kind == signal.SIGTERM else 2)
    assert crossrt(*rerank_words(bundle, files, out)).returncode == 0
    assert [path.name for path in out.parent.iterdir()] == ["out.trec"]


def test_a_person_at_a_terminal_sees_a_progress_bar(bundle: Path, files: dict[str, Path], tmp_path: Path) -> None:
    parent, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))  # a terminal of no width gets no bar
    command = [sys.executable, "-m", "crossrt", *map(str, rerank_words(bundle, files, tmp_path / "out.trec"))]
    child = subprocess.Popen(command, stderr=terminal, stdout=subprocess.DEVNULL)
    child.wait()
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # Linux: EIO once the other end is closed and all is read
            break
        if not piece:
            break
        shown += piece
    os.close(parent)
    assert child.returncode == 0
    assert b"Reranking: 100%" in shown


def test_a_wheel_holds_the_package_alone_and_everything_that_it_needs(bundle: Path, tmp_path: Path) -> None:
    repository = Path(__file__).resolve().parent.parent
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(repository, source, ignore=ignore)
    # The libraries that are installed here are newer than their sources, so they are not compiled again.
    compiled = source / f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}/crossrt/engine/kernels"
    compiled.mkdir(parents=True)
    for library in (repository / "engine/kernels").glob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
        shutil.copy(library, compiled)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(tmp_path.glob("crossrt-*.whl"))
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    top = {path.name for path in (tmp_path / "site").iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"crossrt"}
    packages = [*repository.glob("*/__init__.py"), *repository.glob("*/*/__init__.py")]
    folders = {path.parent.relative_to(repository) for path in packages} | {Path()}
    kernels = {path.name for path in (tmp_path / "site/crossrt/engine/kernels/native").iterdir()}
    assert kernels == {"encoder.cu", "device.cuh"}, (
        "what a GPU's machine compiles, and nothing that is compiled already"
    )
    shipped = {
        path.parent.relative_to(tmp_path / "site/crossrt") for path in (tmp_path / "site/crossrt").rglob("__init__.py")
    }
    assert shipped == folders
    program = (
        "import pathlib, crossrt; from crossrt import CrossEncoder; root = pathlib.Path(crossrt.__file__).parent;"
        f"assert str(root).startswith({str(tmp_path)!r}), root;"
        "assert (root / 'py.typed').is_file();"
        f"print(CrossEncoder({str(bundle)!r}).num_labels)"
    )
    # The checkpoint, 6 MB, is for trying crossrt from a checkout.
    folders_of_demo = (repository / "demo/calibration", repository / "demo/sample")
    demo = {path.relative_to(repository) for folder in folders_of_demo for path in folder.iterdir()}
    site = tmp_path / "site/crossrt"
    assert {path.relative_to(site) for path in (site / "demo").rglob("*") if path.is_file()} == demo
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "1"


def test_report_writes_one_page(tmp_path: Path) -> None:
    results = Path(__file__).resolve().parent.parent / "benchmarks/results"
    page = tmp_path / "report.html"
    done = crossrt(
        "report", results / "cpu.json", results / "evaluate_minilm.json", "-o", page, "--title", "Two results"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    text = page.read_text(encoding="utf-8")
    assert "<h1>Two results</h1>" in text
    assert "minilm-l6.int8" in text
    assert "fastembed" in text


def test_report_refuses_what_is_no_result_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "strange.json").write_text("{}")
    done = crossrt("report", tmp_path / "strange.json", "-o", tmp_path / "report.html")
    assert done.returncode == 1
    assert "strange.json is no result that a page is made of" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["strange.json"]


def test_report_does_not_write_over_another_file(tmp_path: Path) -> None:
    result = tmp_path / "strange.json"
    result.write_text("{}")
    done = crossrt("report", result, "-o", result)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert result.read_text() == "{}"


def test_report_says_what_must_be_installed(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['jinja2'] = None; sys.argv = ['crossrt', 'report', 'a.json', '-o', 'b.html']"
    code = f"{hidden}; from crossrt.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert 'jinja2: pip install "crossrt[report]"' in done.stderr


def test_the_label_to_rank_by_can_be_chosen(two_label_bundle: Path, files: dict[str, Path], tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("\n".join(PASSAGES))
    orders, runs = [], []
    for label in ("0", "LABEL_1"):
        found = crossrt("rank", two_label_bundle, "where is the river", lines, "--json", "--relevant-label", label)
        orders.append([row["id"] for row in json.loads(found.stdout)])
        out = tmp_path / f"{label}.trec"
        assert crossrt(*rerank_words(two_label_bundle, files, out), "--relevant-label", label).returncode == 0
        runs.append([line.split()[2] for line in out.read_text().splitlines() if line.startswith("1 ")])
    assert orders[0] == orders[1][::-1]
    assert runs[0] == runs[1][::-1]
    refused = crossrt("rank", two_label_bundle, "q", lines, "--relevant-label", "relevant")
    assert refused.returncode == 2
    assert "relevant_label='relevant' is none of the model's labels: 0 (LABEL_0), 1 (LABEL_1)" in refused.stderr
