"""The result of a job: `Summary`, and each `Failure`."""

from dataclasses import dataclass, field

from ..engine.text.truncation import Truncation


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A passage of a query that was set aside, and its error."""

    query_id: str
    doc_id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The result of a job.

    `pairs` is the number of candidates. Of these, `earlier` were scored by an earlier start of the job, `written` are in the
    output and `failures` were set aside.
    """

    queries: int
    pairs: int
    earlier: int
    written: int
    failures: int
    seconds: float
    max_length: int
    truncation: Truncation = field(default_factory=Truncation)
    backends: tuple[str, ...] = ()
    """Names of what scored. Most are backends, whose scores differ in their last digits. `native_narrow` stands for the native
    kernels' INT8 with activations of 7 bits, which orders passages differently."""
