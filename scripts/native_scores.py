"""Score sample texts with each kind of native kernels that can run here, and compare the logits with another machine's.

python scripts/native_scores.py BUNDLE > here.json
python scripts/native_scores.py BUNDLE --against here.json

`--cpuinfo FILE` is read instead of /proc/cpuinfo, since an emulator shows that of its host.
"""

import argparse
import json
import sys
from pathlib import Path

from crossrt import CrossEncoder
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.hardware import cpus
from crossrt.engine.kernels.instruction_sets import PROCESSOR_KINDS
from crossrt.engine.kernels.support import native_kind, only_kinds
from crossrt.engine.precision import Precision

QUERIES = ("how tall is a giraffe", "what does a heat pump cost to run")
PASSAGES = Path(__file__).parents[1] / "demo/sample/passages.tsv"
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.1}
"""How much logits may differ. In BF16 and INT8, sums in another order may round to another value."""
ALIKE = [kind for kind in PROCESSOR_KINDS if kind.int8 == "exact"]
"""The kinds that differ only by rounding. Narrow INT8 has a different arithmetic."""


def logits_by_kind(bundle: Path, count: int) -> dict[str, dict[str, list[float]]]:
    """Return the logits of the first `count` passages with each query, by precision and kind."""
    lines = PASSAGES.read_text(encoding="utf-8").splitlines()[:count]
    pairs = [(query, line.partition("\t")[2]) for query in QUERIES for line in lines]
    found: dict[str, dict[str, list[float]]] = {}
    for precision, model in Bundle.open(bundle).manifest.models.items():
        for kind in ALIKE if model.native_file else ():
            with only_kinds(kind.name):
                if native_kind(Precision(precision)) is None:
                    continue
                with CrossEncoder(bundle, device="cpu", backend="native", precision=precision) as encoder:
                    found.setdefault(precision, {})[kind.name] = encoder.logits(pairs).ravel().tolist()
    return found


def main() -> None:
    """Print the logits as JSON, or a table of the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--passages", type=int, default=8, help="passages with each query")
    parser.add_argument("--cpuinfo", type=Path, default=cpus.CPUINFO)
    parser.add_argument("--against", type=Path, help="the output of another machine")
    options = parser.parse_args()
    cpus.CPUINFO = options.cpuinfo
    found = logits_by_kind(options.bundle, options.passages)
    if options.against is None:
        print(json.dumps(found))
        return
    too_far = False
    for precision, others in json.loads(options.against.read_text()).items():
        [other, *_], [expected, *_] = others, others.values()
        for kind, logits in found.get(precision, {}).items():
            most = max(abs(a - b) for a, b in zip(logits, expected, strict=True))
            print(f"{precision} by {kind} and {other}: {len(logits)} logits, largest difference {most:.2g}")
            too_far |= most > TOLERANCE[precision]
    if too_far or not found:
        sys.exit("the logits differ too much" if found else "none of the kinds can run")


if __name__ == "__main__":
    main()
