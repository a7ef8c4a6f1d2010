"""`Closable`: base class of sessions and scorers, which refuse to work once they are closed."""

from .errors import BackendError

CLOSED = "this model is closed; open the bundle again"


class Closable:
    """Remembers whether the object was closed, and raises the same error everywhere.

    `close` of a subclass sets `_closed` before it frees anything, and may be called again. `closed` and `check_open` take no
    lock and may be called from any thread. They do not stop another thread from closing the object a moment later. So a subclass
    whose `close` frees memory that a running call uses must wait for that call.
    """

    _closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def check_open(self) -> None:
        """Raise BackendError once the object is closed."""
        if self._closed:
            raise BackendError(CLOSED)
