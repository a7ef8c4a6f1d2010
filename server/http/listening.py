"""`listening_socket` returns the socket that a server listens on."""

import errno
import os
import socket
import stat
from pathlib import Path

from ...engine.errors import OptionError

BACKLOG = 2048


def listening_socket(host: str, port: int, uds: Path | None) -> socket.socket:
    """Return a socket that listens on a host and port, or on a Unix socket.

    Raises OptionError, naming the address, if it is taken or not allowed.
    """
    try:
        return _tcp(host, port) if uds is None else _unix(uds)
    except OSError as error:
        where = uds or f"{host}:{port}"
        raise OptionError(f"cannot listen on {where}: {error.strerror or error}; choose another address") from error


def address(listening: socket.socket, *, tls: bool) -> str:
    """Return the address at which clients reach the socket."""
    if listening.family == getattr(socket, "AF_UNIX", None):
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _tcp(host: str, port: int) -> socket.socket:
    family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _unix(path: Path) -> socket.socket:
    """Bind a Unix socket. Replace one that a killed server left behind, but no other file and no running server's socket."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        is_socket = path.exists() and stat.S_ISSOCK(path.stat().st_mode)
        # Another error, such as that of a socket which only another user may connect to, does not mean that no server listens.
        if is_socket and listening.connect_ex(os.fspath(path)) == errno.ECONNREFUSED:
            path.unlink()
            listening.close()
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(os.fspath(path))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
