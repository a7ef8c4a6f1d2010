"""`ModelSettings`: how one model is opened and served. They are checked when they are created."""

from dataclasses import dataclass, field
from typing import Any

from ...engine.errors import OptionError
from ...engine.options import whole


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """Limits of a model's requests and queue.

    `max_documents` and `max_request_tokens` limit one request, `max_queue_tokens` all requests that were accepted and are not
    scored yet. Pairs that are too long for the model are truncated, or refused if `truncate` is False.
    """

    max_documents: int = 2048
    max_request_tokens: int = 1_048_576
    max_queue_tokens: int = 2_097_152
    truncate: bool = True

    def __post_init__(self) -> None:
        for name in ("max_documents", "max_request_tokens", "max_queue_tokens"):
            whole(name, getattr(self, name), minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One served model: its `name`, its `bundle`, as `CrossEncoder` takes it, and the other options of `CrossEncoder`."""

    name: str
    bundle: str
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    limits: ModelLimits = field(default_factory=ModelLimits)

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise OptionError(f"{self.name!r} is no name for a model; give one as NAME=BUNDLE")
        whole("batch_size", self.batch_size, minimum=1)
