"""The long run: `python -m tests.fuzz --inputs 1000000` tries all kinds. With a kind's name it tries that kind alone, here."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from .kinds import KINDS
from .run import REPOSITORY, run, serve

RESULT = REPOSITORY / "benchmarks/results/fuzz.json"


def main() -> int:
    """Return the exit status: 0 when nothing failed."""
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    arguments.add_argument("kind", nargs="?", choices=[*KINDS])
    arguments.add_argument("--inputs", type=int, default=1_000_000, help="in all, shared out among the kinds")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so many, shared out likewise"
    )
    arguments.add_argument("--first", type=int, default=0, help="the call to begin with, to repeat one that failed")
    arguments.add_argument("--notes", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--out", type=Path, default=RESULT, help="where the JSON result of a run of all kinds goes")
    given = arguments.parse_args()
    if given.kind:
        return serve(
            given.kind,
            seed=given.seed,
            first=given.first,
            inputs=given.inputs,
            notes=given.notes,
            seconds=given.seconds,
        )
    sys.path.append(str(REPOSITORY / "benchmarks"))
    from result import write_result

    kinds: dict[str, dict[str, Any]] = {}
    begin = time.monotonic()
    for number, (kind, (_, share)) in enumerate(KINDS.items()):
        seconds = (given.seconds - (time.monotonic() - begin)) / (len(KINDS) - number)
        result = run(kind, seed=given.seed, inputs=given.inputs * share // 100, seconds=seconds)
        kinds[kind] = {
            "inputs": result.inputs,
            "accepted": result.accepted,
            "refused": result.refused,
            "seconds": round(result.seconds, 1),
            "failures": list(result.failures),
        }
        print(f"{kind:16} {json.dumps(kinds[kind])[:2000]}", flush=True)
    total = sum(each["inputs"] for each in kinds.values())
    write_result(given.out, {"seed": given.seed, "inputs": total, "kinds": kinds})
    return int(any(each["failures"] for each in kinds.values()))


if __name__ == "__main__":
    sys.exit(main())
