"""`patch()` replaces sentence-transformers' `CrossEncoder` with crossrt's, for frameworks that construct it themselves."""

import sys
from importlib import import_module

from .engine.cross_encoder import CrossEncoder
from .engine.log import warn_once


def patch() -> None:
    """Make `from sentence_transformers import CrossEncoder` import crossrt's class from now on, in this process.

    Call it before the framework is imported. A module that imported the class earlier keeps the old class, and a warning names
    the module. `sentence_transformers.cross_encoder.CrossEncoder` is replaced too; the trainers are not. Further calls change
    nothing. Raises ImportError without sentence-transformers.
    """
    packages = [import_module(name) for name in ("sentence_transformers", "sentence_transformers.cross_encoder")]
    theirs = packages[1].CrossEncoder
    if theirs is CrossEncoder:
        return
    for package in packages:
        package.CrossEncoder = CrossEncoder  # type: ignore[attr-defined]
    late = sorted(
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] != "sentence_transformers"
        and getattr(module, "__dict__", {}).get("CrossEncoder") is theirs
    )
    if late:
        warn_once(
            f"{', '.join(late)} imported sentence-transformers' CrossEncoder already and goes on with it: call "
            "crossrt.compatibility.patch() first"
        )
