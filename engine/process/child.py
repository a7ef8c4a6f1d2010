"""Commands that start child processes."""

import sys

# With -c and -m Python puts the working directory first on sys.path, so a folder `copy` or a file torch.py there would be
# imported. From 3.11 on, Python's option -P prevents that. This line also works in 3.10, and leaves PYTHONPATH as it is.
_WITHOUT_WORKING_DIRECTORY = "import sys; sys.path[:1] = [] if sys.path[:1] == [''] else sys.path[:1]\n"


def python_command(program: str, *words: str) -> list[str]:
    """Return the command that runs the program text in this Python interpreter, with `words` as its `sys.argv[1:]`."""
    return [sys.executable, "-c", _WITHOUT_WORKING_DIRECTORY + program, *words]


def crossrt_command(*words: str) -> list[str]:
    """Return the command that runs `crossrt` with `words` as its arguments."""
    return python_command("from crossrt.__main__ import main; main()", *words)
