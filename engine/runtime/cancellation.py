"""`Cancellation`: lets another thread give up a call that takes several requests to a scorer."""

import threading
import weakref

from ..errors import BackendError
from .pending import Pending


class Cancellation:
    """Cancels one call, such as an exact ranking or a ranking by windows. Any thread may call the methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._pending: weakref.WeakSet[Pending] = weakref.WeakSet()
        """The call's requests to the scorers. Those that are done are dropped with the last reference to them."""

    def cancel(self) -> None:
        """Cancel the batches that have not begun, and refuse the call's further requests. Does not wait for batches that have
        begun. The call raises BackendError."""
        with self._lock:
            self._cancelled = True
            pending = list(self._pending)
        for each in pending:
            each.cancel(wait=False)

    def check(self) -> None:
        """Raise BackendError once the call is cancelled."""
        if self._cancelled:
            raise BackendError("this request was cancelled; submit it again")

    def add(self, pending: Pending) -> None:
        """Cancel this request with the call, at once where the call is cancelled already."""
        with self._lock:
            self._pending.add(pending)
            cancelled = self._cancelled
        if cancelled:
            pending.cancel(wait=False)
