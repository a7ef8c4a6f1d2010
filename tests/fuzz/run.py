"""`run`: tries inputs of one kind in a child process, so that an input that crashes it is found and the run goes on."""

import mmap
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .kinds import KINDS

MEMORY = 8 << 30
"""Address space of a child in bytes. An input that needs more fails."""
STUCK = 120
"""Seconds that one input may take."""
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome for one kind. Each of `failures` says how an input failed, and how to repeat it."""

    kind: str
    accepted: int
    refused: int
    seconds: float
    failures: tuple[str, ...]

    @property
    def inputs(self) -> int:
        """All inputs that were tried."""
        return self.accepted + self.refused


def run(kind: str, *, seed: int, inputs: int, failures: int = 10, seconds: float = float("inf")) -> Result:
    """Try `inputs` inputs of a kind, for at most `seconds`, and stop early after `failures` failures."""
    begin = time.monotonic()
    found: Counter[str] = Counter()
    told: list[str] = []
    call = 0
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        while found["accepted"] + found["refused"] < inputs and len(told) < failures:
            left = seconds - (time.monotonic() - begin)
            if left <= 0:
                break
            notes.write_bytes(bytes(24))
            rest = inputs - found["accepted"] - found["refused"]
            command = [sys.executable, "-m", "tests.fuzz", kind, "--seed", str(seed), "--first", str(call)]
            command += ["--inputs", str(rest), "--notes", str(notes), "--seconds", str(left)]
            with (Path(folder) / "errors").open("w+b") as errors:
                # Rust writes a message for each panic, which would fill the file.
                env = os.environ | {"RUST_BACKTRACE": "0"}
                child = subprocess.Popen(command, stdout=errors, stderr=errors, cwd=REPOSITORY, env=env)
                code = _waited(child, notes)
                words = (Path(folder) / "errors").read_bytes().decode(errors="replace")
            last, accepted, refused = _noted(notes)
            found.update(accepted=accepted, refused=refused)
            call = last + 1
            if code == 0:
                break
            told.append(
                f"call {last} of {kind} ended with {code}: python -m tests.fuzz {kind} --seed {seed} --first {last} --inputs 1\n"
                + words[-3000:]
            )
            found["refused"] += 1  # counts the failed input, so that the loop ends
    return Result(
        kind=kind,
        accepted=found["accepted"],
        refused=found["refused"] - len(told),
        seconds=time.monotonic() - begin,
        failures=tuple(told),
    )


def serve(kind: str, *, seed: int, first: int, inputs: int, notes: Path | None, seconds: float) -> int:
    """Run as the child: try inputs from number `first` on, and return the exit status."""
    if "asan" not in os.environ.get("LD_PRELOAD", "") and "tsan" not in os.environ.get("LD_PRELOAD", ""):
        resource.setrlimit(
            resource.RLIMIT_AS, (MEMORY, MEMORY)
        )  # not with sanitizers, which reserve terabytes of address space
    begin, made = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, _Notes(notes) as note:
        attempt = KINDS[kind][0](Path(folder))
        call = first
        while made < inputs and time.monotonic() - begin < seconds:
            note.write(0, call)
            try:
                accepted, refused = attempt(Random(f"{seed} {kind} {call}"))
            except Exception:
                traceback.print_exc()
                return 1
            made += accepted + refused
            note.add(accepted, refused)
            call += 1
    return 0


class _Notes:
    """Three numbers in a file, which survive the process: the call, the accepted and the refused inputs."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("r+b") if path is not None else None
        self._map = mmap.mmap(self._file.fileno() if self._file else -1, 24)

    def __enter__(self) -> "_Notes":
        return self

    def __exit__(self, *exception: object) -> None:
        self._map.close()
        if self._file:
            self._file.close()

    def write(self, place: int, number: int) -> None:
        self._map[8 * place : 8 * place + 8] = number.to_bytes(8, "little")

    def add(self, *more: int) -> None:
        for place, number in enumerate(more, start=1):
            self.write(place, int.from_bytes(self._map[8 * place : 8 * place + 8], "little") + number)


def _noted(notes: Path) -> tuple[int, int, int]:
    content = notes.read_bytes()
    call, accepted, refused = (int.from_bytes(content[at : at + 8], "little") for at in (0, 8, 16))
    return call, accepted, refused


def _waited(child: "subprocess.Popen[bytes]", notes: Path) -> int | str:
    """Return the child's exit status, or say that it was killed because an input took too long."""
    before = None
    while True:
        try:
            return child.wait(STUCK)
        except subprocess.TimeoutExpired:
            now = _noted(notes)
            if now == before:
                child.kill()
                child.wait()
                return f"nothing for {STUCK} seconds"
            before = now
