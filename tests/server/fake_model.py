"""A model whose requests end when a test says so."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from crossrt.engine.errors import BackendError
from crossrt.engine.text.encoded_pairs import EncodedPairs
from crossrt.server.models.model_settings import ModelLimits, ModelSettings
from crossrt.server.models.served_model import PROBE, ServedModel


class Pending:
    """A request to the model, which ends when the test says so."""

    def __init__(self, count: int) -> None:
        self.count, self.error, self.cancelled = count, None, False
        self.waiting_tokens = 0
        self._callbacks: list[Any] = []

    def wait(self) -> Any:
        if self.error is not None:
            raise self.error
        return np.zeros((self.count, 1), dtype=np.float32)

    def cancel(self, *, wait: bool = True) -> None:
        self.cancelled = True

    def add_done_callback(self, function: Any) -> None:
        self._callbacks.append(function)

    def finish(self, error: Any = None) -> None:
        self.error = error
        for function in self._callbacks:
            function(self)


class Model:
    """Makes ten tokens of every pair. A probe is scored at once while `healthy`."""

    device, max_length, num_labels, label_names, relevant_label = "cpu", 512, 1, (), None

    def __init__(self, *, healthy: bool = True) -> None:
        self.healthy, self.closed, self.error = healthy, False, None
        self.probes = 0
        self.pending: list[Pending] = []
        self.closing_seconds = 0.0
        self.tokenized: threading.Event | None = None
        """What `encode` waits for in a thread."""
        self.during_submit: Any = None

    def encode(self, pairs: Sequence[tuple[str, str]], *, limits: Any = None) -> EncodedPairs:
        if self.error is not None:
            raise self.error
        if self.tokenized is not None and threading.current_thread() is not threading.main_thread():
            assert self.tokenized.wait(20)
        ids = np.zeros(10 * len(pairs), dtype=np.int32)
        return EncodedPairs(ids=ids, type_ids=ids.astype(np.uint8), offsets=np.arange(0, len(ids) + 1, 10))

    def submit(self, pairs: EncodedPairs, *, batch_size: int, priority: int) -> Pending:
        pending = Pending(len(pairs))
        if priority == PROBE.priority:
            self.probes += 1
            if self.healthy:
                asyncio.get_running_loop().call_soon(pending.finish)
            return pending
        if self.during_submit is not None:
            self.during_submit()
        self.pending.append(pending)
        return pending

    def check_finite(self, logits: Any) -> None:
        pass

    def relevance(self, logits: Any) -> Any:
        return logits[:, 0]

    def close(self) -> None:
        time.sleep(self.closing_seconds)
        self.closed = True


async def served(*models: Model, **limits: int) -> ServedModel:
    """A served model that opens one of these after the other. The first is open."""
    following = list(models)

    def opener(settings: ModelSettings) -> Any:
        if not following:
            raise BackendError("there is no other model")
        return following.pop(0)

    found = ServedModel(ModelSettings(name="m", bundle="b", limits=ModelLimits(**limits)), opener)
    await found.open()
    return found
