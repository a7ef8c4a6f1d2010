"""Tests an installation of crossrt with the demo bundle: `python check_installed.py BUNDLE`. Needs nothing but crossrt.

Scores three pairs in each precision of the bundle that the native kernels can run, and compares the scores with PyTorch's FP32
scores. The exit status is 1 if native kernels or the compiled tokenizer are missing, or if scores are wrong.
"""

import platform
import sys

from crossrt import CrossEncoder
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.hardware.cpus import instructions
from crossrt.engine.kernels.instruction_sets import PROCESSOR_KINDS
from crossrt.engine.kernels.support import native_kind, why_not_native
from crossrt.engine.native_library import load_library, native_library
from crossrt.engine.precision import Precision
from crossrt.engine.text.wordpiece import INTERFACE

QUERY = "play chess against the computer"
PASSAGES = (
    "A calendar server for groups.",
    "Gnushogi is a computer player for Shogi (Japanese chess).",
    "Sjeng is a chess program that plays normal chess and many variants.",
)
SCORES = (-3.71315, -1.05348, -1.28995)
"""PyTorch's scores in FP32."""
TOLERANCE = {"fp32": 1e-4}
"""Largest difference for FP32. Other precisions are judged at export; here they only have to be within `NEAR`."""
NEAR = 0.2


def main(bundle: str) -> int:
    """Return the exit status."""
    present = instructions()
    used = sorted({name for kind in PROCESSOR_KINDS for name in kind.instructions} & present)
    print(f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()}")
    print(f"instructions that kernels use: {' '.join(used) or 'none'}")
    file = native_library("native_wordpiece")
    failed = file is None or load_library(file, "crossrt_wordpiece_interface", INTERFACE) is None
    print(f"tokenization: {'the package tokenizers' if failed else 'compiled'}")
    models = Bundle.open(bundle).manifest.models
    for precision in (Precision(name) for name in models if models[name].native_file):
        kind = native_kind(precision)
        if kind is None:
            print(f"{precision.value}: no native kernels: {why_not_native(precision)}")
            failed = True
            continue
        with CrossEncoder(bundle, precision=precision.value, backend="native") as model:
            scores = model.predict([(QUERY, passage) for passage in PASSAGES])
        difference = max(abs(float(score) - expected) for score, expected in zip(scores, SCORES, strict=True))
        wrong = not difference <= TOLERANCE.get(precision.value, NEAR)
        print(f"{precision.value}: {kind.library}, {scores}{': WRONG' if wrong else ''}")
        failed |= wrong
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
