"""`Cancellation`: lets another thread cancel a call that sends several requests to a scorer."""

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
        """The call's requests to the scorers. A request leaves the set when the last reference to it is dropped."""

    def cancel(self) -> None:
        """Cancel the batches that have not begun, and refuse further requests of the call, which then raises BackendError.

        Does not wait for batches that have begun.
        """
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
        """Add a request of the call. It is cancelled with the call, or at once if the call is already cancelled."""
        with self._lock:
            self._pending.add(pending)
            cancelled = self._cancelled
        if cancelled:
            pending.cancel(wait=False)
