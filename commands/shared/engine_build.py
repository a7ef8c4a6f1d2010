"""`build_engines` builds TensorRT engines of a bundle. It prints progress to standard error, and the engines' checks."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .output import say

if TYPE_CHECKING:
    from ...engine.bundle.bundle import Bundle
    from ...engine.precision import Precision
    from ...export.tensorrt.build import BuildOptions


def build_engines(
    bundle: "Bundle",
    precisions: "Sequence[Precision]",
    *,
    pairs: Sequence[tuple[str, str]],
    options: "BuildOptions",
    **others: Any,
) -> "Bundle":
    """Build engines for the lengths of `pairs`. Return the bundle that holds them. `others` go to `add_engines`."""
    from ...export.tensorrt.engines import add_engines

    bundle, checks = add_engines(
        bundle,
        precisions,
        lengths=bundle.pair_tokenizer().encode(pairs).lengths if pairs else None,
        options=options,
        progress=lambda text: print(f"crossrt: {text}", file=sys.stderr, flush=True),
        **others,
    )
    for check in checks:
        say(str(check))
    return bundle
