"""Commands for processes of our own."""

import sys

# Python puts the working directory first on a child's path, with -c as with -m: a folder `copy` or a file torch.py there would
# be imported. From 3.11 on there is -P against it; this works in 3.10 too, and leaves PYTHONPATH and environments as they are.
_WITHOUT_WORKING_DIRECTORY = "import sys; sys.path[:1] = [] if sys.path[:1] == [''] else sys.path[:1]\n"


def python_command(program: str, *words: str) -> list[str]:
    """Return the command that runs a program text in this Python, with these words as its `sys.argv[1:]`."""
    return [sys.executable, "-c", _WITHOUT_WORKING_DIRECTORY + program, *words]


def crossrt_command(*words: str) -> list[str]:
    """Return the command that runs `crossrt` with these words."""
    return python_command("from crossrt.__main__ import main; main()", *words)
