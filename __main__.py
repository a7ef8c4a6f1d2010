"""The command line."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .commands.shared.app import app
from .engine.errors import CrossrtError, OptionError, ParityError

# isort: off
# Each registers its command; this is the order of `crossrt --help`.
from .commands import export, engines, parity  # noqa: F401
from .commands import rank, rerank, prepare, evaluate  # noqa: F401
from .commands import serve, triton  # noqa: F401
from .commands import bench, tune, report, info  # noqa: F401

BROKEN_PIPE = 141
"""Exit status that a shell reports for a program that SIGPIPE ended: 128 + 13."""


def main() -> None:
    """Run the command line. Exit with 0 on success, 1 on failure, 2 on wrong usage, 143 on SIGTERM."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # the parent process may have chosen to ignore it
        signal.signal(signal.SIGTERM, _terminate)
    debug = "--debug" in sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it was closed
            stream.reconfigure(errors="backslashreplace")  # a character that the terminal cannot show is no failure
    with _quiet_when_nobody_reads(), _errors_in_words(debug):
        app(prog_name="crossrt")


def _terminate(number: int, frame: FrameType | None) -> None:
    """Exit as on an error, so that unfinished files are removed; a second signal ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


@contextmanager
def _quiet_when_nobody_reads() -> Iterator[None]:
    """End silently when the reader of the output has gone, as other tools do: `crossrt rank ... | head -1`."""
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:
        # typer turns a BrokenPipeError into an exit with status 1.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # Python flushes both streams again at exit, so they need something to write to.
        nothing = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                os.dup2(nothing, stream.fileno())
        sys.exit(BROKEN_PIPE)


@contextmanager
def _errors_in_words(debug: bool) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except ParityError as error:
        if debug:
            raise
        if error.report is not None:
            print(error.report, file=sys.stderr)
        print(f"crossrt: {error}", file=sys.stderr)
        sys.exit(1)
    except CrossrtError as error:
        if debug:
            raise
        print(f"crossrt: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, OptionError) else 1)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"crossrt: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("crossrt: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
