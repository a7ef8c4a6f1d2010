"""The exceptions of crossrt.

    CrossrtError
    ├── InputError        a pair, query or passage that cannot be scored       (also a ValueError)
    ├── OptionError       an option with a value that is not allowed           (also a ValueError)
    │   └── UnsupportedOptionError   a keyword of sentence-transformers that has no meaning here (also a TypeError)
    ├── ShapeError        a batch that the opened model does not accept        (also a ValueError)
    ├── DataFileError     a TSV, TREC or pairs file that cannot be used; names the file and the line
    ├── SourceError       a checkpoint or model name that cannot be found or fetched
    ├── CheckpointError   a checkpoint that is not a cross-encoder we can export
    ├── BundleError       a bundle that is missing, altered, of a newer schema, or already at the output path
    │   └── ReplacedError    a bundle that was replaced, altered or removed since the model was opened
    ├── StoreError        a store of prepared passages that cannot be used, or lacks a passage
    ├── BackendError      a runtime that is not installed, or cannot do what is asked
    │   └── CudaError     a CUDA call that failed; carries CUDA's name for it
    ├── MeasurementError  a measurement that contradicts itself, such as a rate above the machine's own
    └── ParityError       an export whose scores differ from the reference; carries the report

A message says what happened, what is allowed and what to do.
"""

from typing import Any, ClassVar


class CrossrtError(Exception):
    """Base of all errors raised by crossrt."""


class InputError(CrossrtError, ValueError):
    """A pair, query or passage that cannot be scored."""

    def __init__(self, problem: str, *, pair: int | None = None) -> None:
        """`problem` says what is wrong. If the index of a `pair` is given, the message begins with it."""
        super().__init__(problem if pair is None else f"pair {pair}{problem}")
        self._problem, self._pair = problem, pair

    def after(self, pairs: int) -> "InputError":
        """Return the same error with the index raised by `pairs`, the number of pairs before those that were checked."""
        return self if self._pair is None else InputError(self._problem, pair=self._pair + pairs)


class OptionError(CrossrtError, ValueError):
    """An option with a value that is not allowed."""


class UnsupportedOptionError(OptionError, TypeError):
    """A keyword of sentence-transformers that has no meaning here; the message names the alternative."""


class ShapeError(CrossrtError, ValueError):
    """A batch that the opened model does not accept."""


class DataFileError(CrossrtError):
    """A data file that cannot be used; the message names the file and, where there is one, the line."""


class SourceError(CrossrtError):
    """A checkpoint or model name that cannot be found or fetched."""


class CheckpointError(CrossrtError):
    """A checkpoint that is not a cross-encoder crossrt can export."""


class BundleError(CrossrtError):
    """A bundle that is missing, altered, of a newer schema, or already at the output path."""


class ReplacedError(BundleError):
    """A bundle that was replaced, altered or removed after a model was opened from it, when the model needs to read it again."""


class StoreError(CrossrtError):
    """A store of prepared passages that is missing, truncated, unfinished, of another tokenizer, or lacks a passage."""


class BackendError(CrossrtError):
    """A runtime that is not installed, or cannot do what is asked."""


class CudaError(BackendError):
    """A CUDA call that failed. `name` is CUDA's name for the error; the message says what to do."""

    HINTS: ClassVar = {
        "OUT_OF_MEMORY": "the device has no memory left: close what else uses it, or build the engine with fewer "
        "--tokens, a smaller --max-length or --workspace",
        "NO_DEVICE": "there is no NVIDIA GPU that this process may use; look at nvidia-smi and CUDA_VISIBLE_DEVICES",
        "INVALID_DEVICE": "there is no such device; nvidia-smi lists them, counted from 0",
        "SYSTEM_DRIVER_MISMATCH": "driver and CUDA libraries do not fit; install a newer driver, or restart after an update",
        "ILLEGAL_ADDRESS": "the device's context is lost; open the model in a new process",
        "LAUNCH_FAILED": "the device's context is lost; open the model in a new process",
        "ECC_UNCORRECTABLE": "the device's memory is damaged; look at nvidia-smi -q",
    }

    def __init__(self, name: str, description: str = "") -> None:
        hint = self.HINTS.get(name.removeprefix("CUDA_ERROR_"), "nvidia-smi shows the device's state")
        super().__init__(f"{description or name}: {hint}")
        self.name = name


class MeasurementError(CrossrtError):
    """A measurement that contradicts itself. No result of its run can be used."""


class ParityError(CrossrtError):
    """An export whose scores differ from the reference beyond the tolerance of its precision; `report` has the numbers."""

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report
