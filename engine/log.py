"""`warn_once`: warnings that are logged once per process."""

import functools
import logging

logger = logging.getLogger("crossrt")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, once per process and message. `warn_once.cache_clear()` starts anew, for tests.

    The logger is `crossrt`. The module `warnings` is not used: the cause is often an option of a library between the user and
    crossrt, which must not fail a program that turns warnings into errors.
    """
    logger.warning(message)
