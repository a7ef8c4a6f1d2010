"""`connected` connects to Ray, and `pool_in` tells how many actors the cluster has room for."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ..engine.errors import BackendError, OptionError
from ..engine.hardware.cpus import usable_cpus

LOCAL = "local"
OBJECT_STORE = 256 << 20
"""Bytes of the object store of a local Ray. Only names of blocks pass through it."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no reports to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no warning that CPU actors do not see GPUs
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # no errors when the driver's object store, with the actors' arguments, ends
}
"""Variables that Ray reads when it is imported. Values that the user has set are kept."""
MISSING = 'this needs Ray: pip install "crossrt[ray]"'
TIMEOUT = 10.0
"""Seconds to wait for the head of a cluster. Ray itself tries for more than two minutes."""


def check_ray(address: str) -> None:
    """Raise OptionError for an invalid address, and BackendError if Ray, or pyarrow, which it needs, is not installed.

    It imports neither. A job calls this before it writes its first file.
    """
    _host_and_port(address)
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise BackendError(MISSING)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster while the context lasts.

    `local` starts Ray on this machine, `auto` finds the cluster that this machine belongs to, and `host:port` is the address of a
    cluster's head. If this process is connected already, that connection is used and stays open. Raises BackendError if Ray is
    not installed or nobody answers, and OptionError for an invalid address.
    """
    place = _host_and_port(address)
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise BackendError(MISSING) from None
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        options |= {"num_cpus": usable_cpus(), "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    elif place is not None:
        _reach(*place)
    # When a node is lost, Ray prints to standard output, where the run may be written to.
    with redirect_stdout(sys.stderr):
        try:
            ray.init(**options)
        except Exception as error:  # ConnectionError, RuntimeError or ValueError: Ray has no base class for these
            raise BackendError(f"Ray at {address} does not accept this process: {first_line(error)}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Return host and port of an address, or None for `local` and `auto`. Raises OptionError for anything else."""
    if address in (LOCAL, "auto"):
        return None
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise OptionError(
            f"--ray {address!r}: give local, auto, or host:port of the cluster's head. The job is started on a node of the "
            "cluster, for example by `ray job submit`"
        )
    return host.strip("[]"), int(port)


def _reach(host: str, port: int) -> None:
    """Raise BackendError unless something listens at an address."""
    try:
        socket.create_connection((host, port), timeout=TIMEOUT).close()
    except OSError as error:
        raise BackendError(
            f"no Ray answers at {host}:{port} ({error.strerror or error}); `ray status` on the head shows whether it runs"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The number of actors, and the processors and GPUs of each."""

    actors: int
    threads: int
    gpus: float


def pool_in(ray: Any, *, actors: int | None, threads: int | None, gpus: float) -> Pool:
    """Return the actors that a cluster has room for: at most `actors`, each with `threads` processors and `gpus`.

    By default an actor gets all processors of the smallest node. With GPUs it gets its share of a node that is divided among as
    many actors as it has GPUs for; the smallest such share counts. By default there are as many actors as fit. Raises OptionError
    if not even one fits.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= gpus]
    if not with_gpus:
        most = max((node.get("GPU", 0) for node in nodes), default=0)
        raise OptionError(f"an actor was to get {gpus:g} GPUs, and the nodes of this cluster have {most:g} at most")
    if threads is None:
        threads = max(1, min((_share(node, gpus) for node in with_gpus if node.get("CPU", 0) >= 1), default=1))
    room = sum(_room(node, threads, gpus) for node in with_gpus)
    if not room:
        most = max(node.get("CPU", 0) for node in with_gpus)
        raise OptionError(
            f"an actor was to get {threads} processors, and the nodes of this cluster have {most:g} at most"
        )
    return Pool(actors=room if actors is None else min(actors, room), threads=threads, gpus=gpus)


def _share(node: dict[str, float], gpus: float) -> int:
    """Return the processors of one actor when the node is divided among as many actors as it has GPUs for."""
    return int(node["CPU"] // max(1, node["GPU"] // gpus)) if gpus else int(node["CPU"])


def _room(node: dict[str, float], threads: int, gpus: float) -> int:
    return int(min(node.get("CPU", 0) // threads, node["GPU"] // gpus if gpus else float("inf")))


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
