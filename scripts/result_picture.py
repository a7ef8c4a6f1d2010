"""`draw` draws the systems in a result of `benchmarks/cpu.py`."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]


def ranked(result: Result) -> list[dict[str, Any]]:
    """Return the systems, the fastest first, failed ones last."""
    return sorted(result["systems"], key=lambda row: -speed(row))


def speed(row: Mapping[str, Any]) -> float:
    """Return the median ratio to the reference, or 0 for a system that failed."""
    return float(row.get("ratio_median", 0))


def is_exact(row: Mapping[str, Any]) -> bool:
    """Tell whether a system's scores equal the reference's, within 1e-3."""
    return float(row["max_abs_diff"]) < 1e-3


def digest(result: Result) -> str:
    """Return the hash of the data that the picture shows. The picture stores it as its source."""
    drawn = [result["machine"]["processor"], *(row for row in result["systems"] if "failed" not in row)]
    return "sha256:" + hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def draw(result: Result, path: Path) -> None:
    """Draw a bar for each system, with the 5th to 95th percentile of its ratios, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "crossrt"
    from matplotlib import pyplot

    rows = [row for row in ranked(result) if "failed" not in row][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 0.33 * len(rows) + 0.9))
    colours = ["#0b6e99" if row["system"].startswith("crossrt") else "#9aa7b0" for row in rows]
    values = [speed(row) for row in rows]
    low = [max(0.0, speed(row) - row["ratio_p5_p95"][0]) for row in rows]
    high = [max(0.0, row["ratio_p5_p95"][1] - speed(row)) for row in rows]
    axes.barh([row["system"] for row in rows], values, color=colours, xerr=[low, high], ecolor="#444444")
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        axes.text(0.03, place, f"{value:.2f}", va="center", color="white" if value > 0.4 else "black", fontsize=8)
        if not is_exact(row):
            axes.text(
                max(row["ratio_p5_p95"][1], 0.3) + 0.03,
                place,
                f"overlap {row['top10_overlap']:.3f}",
                va="center",
                fontsize=7,
            )
    machine = result["machine"]
    axes.set_xlabel(f"speed of PyTorch FP32, median with 5th to 95th percentile; {machine['processor']}", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None, "Source": digest(result)})
