"""The environment variables that set options of `crossrt serve`, and others with the same prefix."""

import os
import re

import typer

from ...engine.errors import OptionError

PREFIX = "CROSSRT"
"""Prefix of the variables that set options."""
MODELS = f"{PREFIX}_MODELS"
OTHERS = frozenset(
    {
        "CROSSRT_CACHE",
        "CROSSRT_KERNELS",
        "CROSSRT_DRIVER_IN_MEMORY",
        "CROSSRT_HIDDEN_CPUID",
        "CROSSRT_TESTS_CPUINFO",
    }
)
"""Variables with the prefix that set no option. The last three belong to the tests and the benchmarks."""
LINKED = re.compile(
    rf"{PREFIX}_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)|{PREFIX}(_\w+)?_ENV_\w+"
)
"""Names of variables that Kubernetes and Docker set for a Service or linked container called crossrt or crossrt-..."""
LINKED_PORT = re.compile(rf"{PREFIX}_(\w+_)?PORT"), re.compile("(tcp|udp|sctp)://.*")
LINKED_NAME = re.compile(rf"{PREFIX}_(\w+_)?NAME"), re.compile("/.+/.+")
"""Patterns of name and value. The value is checked too, since CROSSRT_PORT is also an option."""


def models_of_variable() -> list[str]:
    """Return the `[NAME=]BUNDLE` words of CROSSRT_MODELS. Commas separate them, since paths may have spaces."""
    words = os.environ.get(MODELS, "").split(",")
    return [word.strip() for word in words if word.strip()]


def refuse_unknown_variables(context: typer.Context, value: bool) -> bool:
    """Raise OptionError for an unknown variable with the prefix. This is the callback of an eager option.

    Removes the variables of a Service or a linked container from the environment, so that CROSSRT_PORT=tcp://10.0.0.1:80 is not
    read as the option.
    """
    known = {f"{PREFIX}_{parameter.name}".upper() for parameter in context.command.params} | OTHERS
    for name in sorted(name for name in os.environ if name.startswith(f"{PREFIX}_")):
        if _is_linked(name, os.environ[name]):
            del os.environ[name]
        elif name not in known:
            raise OptionError(f"the environment has {name}, which is no option; crossrt serve --help lists them")
    return value


def _is_linked(name: str, value: str) -> bool:
    """Tell whether Kubernetes or Docker set a variable."""
    if LINKED.fullmatch(name):
        return True
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in (LINKED_PORT, LINKED_NAME))
