"""What a job did: `Summary`, and each `Failure`."""

from dataclasses import dataclass, field

from ..engine.text.truncation import Truncation


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A passage of a query that was set aside, and why."""

    query_id: str
    doc_id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a job did.

    `pairs` is the number of candidates, of which `earlier` were scored by an earlier start of the job, `written` are in the
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
    """What scored, by name: backends, whose scores differ in their last digits, or `native_narrow` for the native kernels' INT8
    with activations of 7 bits, which orders passages in another way."""
