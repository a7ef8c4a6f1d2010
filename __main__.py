"""The command line."""

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from .commands.shared.app import app
from .engine.errors import CrossrtError, OptionError, ParityError

# isort: off
# Each import registers a command. Their order is the order in `crossrt --help`.
from .commands import export, engines, parity  # noqa: F401
from .commands import rank, rerank, prepare, evaluate  # noqa: F401
from .commands import serve, triton  # noqa: F401
from .commands import bench, tune, report, info  # noqa: F401

BROKEN_PIPE = 141
"""Exit status that a shell reports for a program killed by SIGPIPE: 128 + 13."""


def main() -> None:
    """Run the command line.

    The exit status is 0 on success, 1 on failure, 2 on wrong usage, 3 when `rerank --ray --on-error skip` has set passages aside,
    130 on an interrupt, 141 when the reader of the output has gone, and 143 on SIGTERM.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # the parent process may have chosen to ignore it
        signal.signal(signal.SIGTERM, _terminate)
    debug = "--debug" in sys.argv[1:]
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # escape characters that the encoding cannot represent
    with _quiet_when_nobody_reads(), _errors_in_words(debug):
        app(prog_name="crossrt")


class _ClosedOutput(io.TextIOBase):
    """Stand-in for a closed standard output. Writing raises OSError, so that output is not lost silently."""

    def write(self, text: str) -> int:
        """See `io.TextIOBase`."""
        self.fileno()
        return 0

    def fileno(self) -> int:
        """See `io.IOBase`."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")


def _open_closed_streams() -> None:
    """Replace the standard streams that were closed before this process started. Python sets these to None.

    The replacement for input is empty, the one for errors discards them, and writing output raises OSError. Each occupies the
    descriptor of its stream, so that no other file gets that number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "r"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nothing = Path(os.devnull).open(mode)  # noqa: SIM115, kept open
            os.set_inheritable(nothing.fileno(), True)
            setattr(sys, name, nothing if name != "stdout" else _ClosedOutput())
            _kept.append(nothing)


_kept: list[IO[str]] = []
"""Files that occupy the descriptors of closed standard streams. The list keeps them open."""


def _terminate(number: int, frame: FrameType | None) -> None:
    """Exit by SystemExit, so that unfinished files are removed. A second signal kills the process at once."""
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


@contextmanager
def _quiet_when_nobody_reads() -> Iterator[None]:
    """Exit silently when the reader closes the pipe, as other tools do: `crossrt rank ... | head -1`."""
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
