"""The command line."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .commands.app import app
from .engine.errors import CrossrtError, OptionError, ParityError

# isort: off
from .commands import making, ranking, measuring, info  # noqa: F401, each registers its commands, in the order of the help


def main() -> None:
    """Run the command line; exit 0 when done, 1 when something failed, 2 when the words were wrong, 143 on SIGTERM."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # whoever started this may want it ignored
        signal.signal(signal.SIGTERM, _terminate)
    debug = "--debug" in sys.argv[1:]
    with _errors_in_words(debug):
        app(prog_name="crossrt")


def _terminate(number: int, frame: FrameType | None) -> None:
    """End as on an error, so that files which are half written go; a second signal ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


@contextmanager
def _errors_in_words(debug: bool) -> Iterator[None]:
    try:
        yield
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
