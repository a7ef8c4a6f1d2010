"""`warn_once`: warnings that are logged once per process."""

import functools
import logging

logger = logging.getLogger("crossrt")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, once per process and message. Tests reset this with `warn_once.cache_clear()`.

    The logger is `crossrt`. The module `warnings` is not used, since a program may turn its warnings into errors. Often the cause
    is an option set by a library between the user and crossrt, and that must not make the program fail.
    """
    logger.warning(message)
