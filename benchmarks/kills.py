#!/usr/bin/env python3
"""Does a command that is killed at any moment leave only complete files?

    benchmarks/kills.py --out benchmarks/results/kills.json
    benchmarks/kills.py --quick

Kills `crossrt export`, `prepare`, `rerank` and `evaluate` on the demo model by SIGKILL and SIGTERM, at seeded random moments
between their start and the time that an undisturbed run takes. After each kill the target must be absent, the old one, or the
complete new one; their sha256 are compared. Then the same command must succeed, write the same bytes as the undisturbed run, and
leave no hidden file. A command that has caught SIGTERM must leave no hidden file even before that. A run that ends before its
kill is not counted.

Each run is a fork of this process, which has imported everything and computed nothing. The kills therefore hit work and not
imports.
"""

import argparse
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from result import write_result

from crossrt.__main__ import main as command_line
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.errors import CrossrtError
from crossrt.engine.files.cache import VARIABLE
from crossrt.engine.files.digests import sha256_of
from crossrt.engine.store.passage_store import PassageStore
from crossrt.evaluation.evaluate import RESULT

DEMO = Path(__file__).resolve().parent.parent / "demo"
KILLS, QUICK_KILLS = 220, 24
QUERIES = 10
COPIES = 5
"""Copies of the demo's passages, so that `prepare` saves its progress several times."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
HIDDEN = re.compile(r"\..+\.(partial|lock)|\.lock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line and the `target` that it writes. `content` describes a complete target, and raises for an incomplete one."""

    words: tuple[str, ...]
    target: Path
    content: Callable[[Path], Any]
    old: Path | None = None
    """The target that the command replaces."""
    resumed: tuple[str, ...] = ()
    """Names of hidden files that an interrupted run leaves on purpose, for the next one."""

    @property
    def name(self) -> str:
        """The command's name."""
        return self.words[0]

    def begin(self, *, replace: bool) -> None:
        """Remove the target and its hidden files, then put the old target in place if `replace` is set."""
        for path in [self.target, *self.target.parent.glob(f".{self.target.name}.*")]:
            remove(path)
        if replace and self.old is not None:
            (shutil.copytree if self.old.is_dir() else shutil.copy)(self.old, self.target)

    def left(self) -> list[str]:
        """Return the names of partial and lock files beside the target and in it."""
        folders = [self.target.parent, *([self.target] if self.target.is_dir() else [])]
        return [path.name for folder in folders for path in folder.iterdir() if HIDDEN.fullmatch(path.name)]


def main() -> None:
    """Kill, check, print, and write JSON when asked; exit 1 when an incomplete file was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help=f"over all commands; {KILLS}, or {QUICK_KILLS} with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer kills, for a quick look")
    parser.add_argument("--only", default="export,prepare,rerank,evaluate", help="commands, as prepare,rerank")
    parser.add_argument("--bundle", type=Path, help="bundle to work with; the demo model's, made here, unless given")
    parser.add_argument("--seconds", type=float, default=660.0, help="begin no kill after this many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    kills = arguments.kills or (QUICK_KILLS if arguments.quick else KILLS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[VARIABLE] = f"{folder}/cache"
        found = campaign(Path(folder), kills, arguments)
    counted = sum(sum(row["kills"].values()) for row in found["commands"].values())
    for name, row in found["commands"].items():
        print(f"{name:<9} {row['kills']}, {row['ended_before']} ended before; target then {row['target']}")
    print(f"{counted} kills, {len(found['failures'])} failures")
    print(*found["failures"], sep="\n")
    if arguments.out:
        write_result(arguments.out, {"seed": arguments.seed, "kills": counted, **found})
    sys.exit(bool(found["failures"]) or not counted)


def campaign(folder: Path, kills: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Kill the commands in turn, alternating the signals."""
    # Imported here so that the forks need not import them.
    names = arguments.only.split(",")
    modules = ["onnxruntime", "ir_measures", "crossrt.evaluation.collection"]
    modules += ["crossrt.export.export", "transformers.models.bert.modeling_bert"] if "export" in names else []
    for module in modules:
        importlib.import_module(module)
    log = folder / "log"
    chance = random.Random(arguments.seed)
    commands = commands_in(folder, names, arguments.bundle, log)
    seconds, new = {}, {}
    for command in commands:
        command.begin(replace=True)
        begin = time.monotonic()
        whole_run(command.words, log)
        seconds[command.name] = time.monotonic() - begin
        new[command.name] = command.content(command.target)
    rows = {command.name: {"kills": Counter(), "ended_before": 0, "target": Counter()} for command in commands}
    failures: list[str] = []
    end = time.monotonic() + arguments.seconds
    turns = [
        *commands,
        *(command for command in commands if command.name != "export"),
    ]  # export takes the longest by far, so it is killed half as often
    done = number = 0
    while done < kills and time.monotonic() < end:
        command, kind = turns[number % len(turns)], SIGNALS[number // len(turns) % len(SIGNALS)]
        number += 1
        row: dict[str, Any] = rows[command.name]
        command.begin(replace=chance.random() < 0.5)
        old = command.content(command.target) if command.target.exists() else None
        delay = chance.uniform(0, seconds[command.name])
        status = killed(command.words, log, delay, kind)
        if status == 0:
            row["ended_before"] += 1
            continue
        done += 1
        row["kills"][kind.name] += 1
        try:
            assert status in (-kind, 128 + kind), f"exit status {status}: {log.read_text()[-500:]}"
            row["target"][state_of(command, old, new[command.name])] += 1
            if status == 128 + kind:
                left = [name for name in command.left() if name not in command.resumed]
                assert not left, f"it ended by itself and left {left}"
            whole_run(command.words, log)
            assert command.content(command.target) == new[command.name], "the next run made something else"
            assert not command.left(), f"the next run left {command.left()}"
        except (AssertionError, CrossrtError, OSError, ValueError) as error:
            failures.append(f"{command.name}, {kind.name} after {delay:.3f} s: {error}")
    return {
        "undisturbed_s": {name: round(value, 2) for name, value in seconds.items()},
        "commands": rows,
        "failures": failures,
    }


def state_of(command: Command, old: Any, new: Any) -> str:
    """Say what a killed command left at its target. Raises AssertionError for an incomplete target."""
    if not command.target.exists():
        assert old is None, "the old target is gone"
        return "absent"
    found = command.content(command.target)
    if found == old:
        return "old"
    if found == new:
        return "new"
    # An evaluation in progress may have some files, if each is complete.
    in_progress = command.name == "evaluate" and found.items() <= new.items()
    assert in_progress, f"the target is neither the old nor the new one: {found}"
    return "in progress"


def commands_in(folder: Path, names: list[str], bundle: Path | None, log: Path) -> list[Command]:
    """Create the inputs of the commands, and return the commands."""
    if bundle is None:
        bundle = folder / "bundle"
        whole_run(("export", str(DEMO / "checkpoint"), str(bundle)), log)
    lines = (DEMO / "sample/bm25.run.trec").read_text().splitlines(keepends=True)
    queries = list(dict.fromkeys(line.split()[0] for line in lines))[:QUERIES]
    (folder / "run").write_text("".join(line for line in lines if line.split()[0] in queries))
    texts = (DEMO / "sample/passages.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "passages").write_text(
        "".join(f"{copy}-{text}" for copy in range(COPIES) for text in texts), encoding="utf-8"
    )
    given = ("--queries", str(DEMO / "sample/queries.tsv"), "--passages", str(DEMO / "sample/passages.tsv"))
    given += ("--run", str(folder / "run"), "--backend", "onnxruntime")
    (folder / "old run").write_text("old\n")
    if "prepare" in names:
        whole_run(("prepare", str(bundle), str(DEMO / "sample/passages.tsv"), str(folder / "old store")), log)
    if "export" in names:
        whole_run(("export", str(DEMO / "checkpoint"), str(folder / "old bundle"), "--activation", "sigmoid"), log)
    targets = {name: folder / f"of {name}" / "target" for name in ("export", "prepare", "rerank", "evaluate")}
    for target in targets.values():
        target.parent.mkdir()
    label = f"{bundle.name}.fp32.run.trec"
    found = [
        Command(
            words=("export", str(DEMO / "checkpoint"), str(targets["export"]), "--force"),
            target=targets["export"],
            content=lambda path: Bundle.open(path, verify=True).manifest.activation,
            old=folder / "old bundle",
        ),
        Command(
            words=("prepare", str(bundle), str(folder / "passages"), str(targets["prepare"]), "--force"),
            target=targets["prepare"],
            content=lambda path: len(PassageStore(path)) and hashes(path),
            old=folder / "old store",
            resumed=(".target.partial",),
        ),
        Command(
            words=("rerank", str(bundle), *given, "--out", str(targets["rerank"])),
            target=targets["rerank"],
            content=sha256_of,
            old=folder / "old run",
        ),
        Command(
            words=(
                *("evaluate", str(bundle), *given, "--qrels", str(DEMO / "sample/qrels.txt")),
                *("--limit", str(QUERIES), "--measures", "RR@10", "--out", str(targets["evaluate"])),
            ),
            target=targets["evaluate"],
            content=evaluation,
            resumed=(f".{label}.partial",),
        ),
    ]
    return [command for command in found if command.name in names]


def evaluation(folder: Path) -> dict[str, str]:
    """Like `hashes`, but without the result's commit, which may change, and its speeds, which differ in every run."""
    found = hashes(folder)
    if RESULT in found:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        for ranking in result["rankings"]:
            ranking["pairs_per_s"] = None
        found[RESULT] = str(result | {"commit": None})
    return found


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file in a folder, without hidden files."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def remove(path: Path) -> None:
    """Remove a file or folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def whole_run(words: tuple[str, ...], log: Path) -> None:
    """Run a command to its end. Raises AssertionError with the command's output when it fails."""
    status = killed(words, log, None, signal.SIGKILL)
    assert status == 0, f"crossrt {words[0]} failed by itself: {log.read_text(encoding='utf-8')[-1000:]}"


def killed(words: tuple[str, ...], log: Path, delay: float | None, kind: signal.Signals) -> int:
    """Run a command in a fork and send it a signal after `delay` seconds, or never if that is None.

    Returns its exit status, or the negative number of the signal that ended it.
    """
    child = os.fork()
    if child == 0:
        run(words, log)
    end = None if delay is None else time.monotonic() + delay
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            os.kill(child, kind)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.0005)


def run(words: tuple[str, ...], log: Path) -> None:
    """Run the command line in this process and exit. Never returns."""
    status = 99
    try:
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["crossrt", *words]
        command_line()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
