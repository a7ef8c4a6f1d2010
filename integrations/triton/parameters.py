"""Convert options of `CrossEncoder` to parameters of a model's configuration, which are texts, and back."""

from collections.abc import Callable, Mapping
from typing import Any

from ...engine.backends.registry import BACKENDS, GPU_BACKENDS
from ...engine.bundle.bundle import Bundle
from ...engine.errors import OptionError
from ...engine.labels import label_number, need_label
from ...engine.options import whole
from ...engine.selection.select_precision import choose_precision

READERS: dict[str, Callable[[str], Any]] = {
    "precision": str,
    "backend": str,
    "threads": int,
    "max_length": int,
    "relevant_label": str,
    "trust_engines": lambda text: {"true": True, "false": False}[text],
}
"""The options that parameters may set, and the function that parses each."""


def parameters_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Return options as parameters. Options that are None or False are defaults and are left out."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return {name: "true" if value is True else str(value) for name, value in given.items()}


def options_of(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the options that parameters set.

    Names in capitals, such as EXECUTION_ENV_PATH, belong to Triton and are ignored. Raises OptionError for any other name that is
    no option, and for a value that cannot be parsed.
    """
    own = {name: text for name, text in parameters.items() if not name.isupper()}
    unknown = sorted(own.keys() - READERS.keys())
    if unknown:
        raise OptionError(f"config.pbtxt: unknown parameter {unknown[0]!r}; one of {', '.join(READERS)}")
    return {name: _value(name, text) for name, text in own.items()}


def check_options(bundle: Bundle, options: Mapping[str, Any]) -> None:
    """Raise OptionError or BundleError for options with which the bundle would not open, as far as this machine can tell.

    Whether the backend is installed is only known where Triton runs.
    """
    manifest = bundle.manifest
    choose_precision(bundle, options.get("precision"))
    bundle.pair_tokenizer(max_length=options.get("max_length"))
    if options.get("threads") is not None:
        whole("threads", options["threads"], minimum=1)
    label = manifest.relevant_label
    if options.get("relevant_label") is not None:
        label = label_number(options["relevant_label"], manifest.label_names, manifest.labels)
    need_label(label, manifest.label_names, manifest.labels)
    known = dict.fromkeys(("auto", *BACKENDS, *GPU_BACKENDS))
    if (options.get("backend") or "auto") not in known:
        raise OptionError(f"unknown backend {options['backend']!r}; one of {', '.join(known)}")


def _value(name: str, text: str) -> Any:
    try:
        return READERS[name](text)
    except (ValueError, KeyError):
        wanted = "true or false" if name == "trust_engines" else "a whole number"
        raise OptionError(f"config.pbtxt: parameter {name!r} is {text!r}; give {wanted}") from None
