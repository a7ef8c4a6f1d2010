#!/usr/bin/env python3
"""Generate the tables and the picture of the documents from the benchmark results.

    scripts/result_tables            # write
    scripts/result_tables --check    # exit 1 if a document differs from the results

A table is between `<!-- NAME -->` and `<!-- /NAME -->`. A table whose results do not exist yet is left unchanged.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from result_picture import Result, digest, draw, is_exact, ranked, speed
from support_matrix import cpu_matrix

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
PICTURE = ROOT / "docs/cpu.svg"
DOCUMENTS = tuple(
    ROOT / name
    for name in (
        "README.md",
        "docs/measurements.md",
        "docs/exact_top_k.md",
        "docs/precisions.md",
        "docs/serving.md",
        "docs/distributed.md",
        "docs/decisions/0029-kinds-of-processors.md",
        "docs/decisions/0031-modernbert-natively.md",
    )
)

GPU_REFERENCE = "sentence-transformers FP16"
GPU_REQUESTS = ("1 x 1", "1 x 10", "1 x 100", "1 x 100, prepared")
GPU_CARDS = {
    "MiniLM-L-6": "cross-encoder/ms-marco-MiniLM-L-6-v2",
    "BERT-base": "nboost/pt-bert-base-uncased-msmarco",
}


def main() -> None:
    """Write the documents, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a document is stale")
    arguments = parser.parse_args()
    stale = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        made = with_tables(text)
        if made != text:
            stale.append(path.name)
            if not arguments.check:
                path.write_text(made, encoding="utf-8")
    if digest(load("cpu")) not in PICTURE.read_text(encoding="utf-8"):
        stale.append(PICTURE.name)
    if arguments.check:
        sys.exit(
            f"{', '.join(stale)}: other figures than benchmarks/results; run scripts/result_tables" if stale else 0
        )
    draw(load("cpu"), PICTURE)


def with_tables(text: str) -> str:
    """Return a document with all tables generated again."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if pattern.search(text) and all((RESULTS / f"{need}.json").is_file() for need in NEEDED.get(name, ())):
            table = begin + make() + end
            text = pattern.sub(lambda _, table=table: table, text)
    return text


def load(name: str) -> Result:
    """Return a result by the name of its file."""
    found: Result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def peers_table() -> str:
    """Return all systems of the main run, fastest first."""
    result = load("cpu")
    lines = ["| | pairs/s | of PyTorch FP32 (5th to 95th percentile) | largest, mean difference | top-10 overlap |"]
    lines.append("|---|--:|--:|--:|--:|")
    for row in ranked(result):
        name = named(row)
        if "failed" in row:
            lines.append(f"| {name} | - | {reason(row)} | - | - |")
            continue
        low, high = row["ratio_p5_p95"]
        exact = row["system"] == "PyTorch FP32"
        errors = "-" if exact else f"{row['max_abs_diff']:.0e}, {row['mean_abs_diff']:.0e}"
        overlap = "-" if exact else f"{row['top10_overlap']:.3f}"
        lines.append(
            f"| {name} | {row['pairs_per_s']:.0f} | {row['ratio_median']:.2f} ({low:.2f} to {high:.2f}) | {errors} | {overlap} |"
        )
    return "\n".join(lines) + "\n"


def shapes_table() -> str:
    """Return the ratios of the fastest systems in the main run and the other runs."""
    runs = {
        "1 x 100, MiniLM-L-6": "cpu",
        "1 x 10, MiniLM-L-6": "cpu_latency",
        "1 x 100, MiniLM-L-6, one thread": "cpu_one_thread",
        "1 x 100, TinyBERT-L-2": "cpu_tinybert",
        "1 x 30, BERT-base": "cpu_base",
    }
    lines = [
        "| request, model | crossrt FP32 | p50, p99 | share of ceiling | fastest exact peer | BF16 | INT8 | PyTorch FP32 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for title, name in runs.items():
        rows = [row for row in load(name)["systems"] if "failed" not in row]
        ours = max((row for row in rows if row["system"].startswith("crossrt FP32")), key=speed)
        peers = [row for row in rows if not row["system"].startswith(("crossrt", "PyTorch FP32")) and is_exact(row)]
        peer = max(peers, key=speed)
        reference = next(row for row in rows if row["system"] == "PyTorch FP32")
        p50, _, p99 = ours["ms_p50_p95_p99"]
        lines.append(
            f"| {title} | {speed(ours):.2f} | {p50:,.0f}, {p99:,.0f} ms | {ours['of_ceiling']:.0%} | "
            f"{speed(peer):.2f} ({peer['system']}) | {own_best(rows, 'BF16')} | {own_best(rows, 'INT8')} | "
            f"{reference['pairs_per_s']:,.0f}/s |"
        )
    return "\n".join(lines) + "\n"


def own_best(rows: list[dict[str, Any]], precision: str) -> str:
    """Return crossrt's best ratio in a precision, or a dash if it was not run."""
    found = [speed(row) for row in rows if row["system"].startswith(f"crossrt {precision}")]
    return f"{max(found):.2f}" if found else "-"


def zoo_table() -> str:
    """Return the fastest backend's speed in each precision for every model of the zoo, and the figures of its card."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in load("zoo")["rows"]:
        rows.setdefault(row["model"], []).append(row)
    lines = [
        "| | FP32 docs/s | BF16 | INT8 | card: docs/s on a V100 | nDCG@10 | MRR@10 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for model, own in rows.items():
        speeds = " | ".join(
            fastest([row for row in own if row["precision"] == name]) for name in ("fp32", "bf16", "int8")
        )
        card = next((row["published"] for row in own if row.get("published")), {})
        said = " | ".join(
            "-" if key not in card else form.format(card[key])
            for key, form in (("docs_per_s_v100", "{:,.0f}"), ("ndcg10", "{:.2f}"), ("mrr10", "{:.2f}"))
        )
        lines.append(f"| {model} | {speeds} | {said} |")
    return "\n".join(lines) + "\n"


def fastest(rows: list[dict[str, Any]]) -> str:
    """Return the fastest backend's speed with its 5th to 95th percentile, or the reason why none ran."""
    ran = [row["pairs_per_s"] for row in rows if row.get("pairs_per_s")]
    if not ran:
        return next((reason(row) for row in rows if row.get("failed")), "-")
    best = max(ran, key=lambda spread: float(spread["median"]))
    return f"{docs(best['median'])} ({docs(best['p5'])} to {docs(best['p95'])})"


def docs(rate: float) -> str:
    """Format documents per second, with a decimal for slow models."""
    return f"{rate:,.0f}" if rate >= 20 else f"{rate:.1f}"


def quality_table() -> str:
    """Return each collection's rankings: means, and differences from the baseline with their intervals."""
    results = [load(name) for name in NEEDED["quality"]]
    measures = list(dict.fromkeys(measure for result in results for measure in result["measures"]))
    lines = [f"| | {' | '.join(measures)} |", f"|---|{'--:|' * len(measures)}"]
    for result in results:
        lines.append(f"| *{result['collection']}, {result['queries']} queries* |{' |' * len(measures)}")
        for row in result["rankings"]:
            cells = " | ".join(
                f"{row['means'][measure]:.4f}{changed(row, measure)}" if measure in row["means"] else "-"
                for measure in measures
            )
            lines.append(f"| {row['label']} | {cells} |")
    return "\n".join(lines) + "\n"


def changed(row: Mapping[str, Any], measure: str) -> str:
    """Return the difference from the baseline with its 95 % interval, or an empty text for the baseline itself."""
    if row["changes"] is None:
        return ""
    change = row["changes"][measure]
    return f", {change['candidate'] - change['reference']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"


def gpu_table() -> str:
    """Return the systems that ran on a GPU for each model, fastest first, and the V100 figure of its card."""
    result, earlier = load("gpu"), load("gpu_onnxruntime")
    cards = {row["model"]: row["published"]["docs_per_s_v100"] for row in load("zoo")["rows"] if row.get("published")}
    lines = [
        "| | pairs/s, from texts | of PyTorch FP16 | ms, 1 x 1 | 1 x 10 | 1 x 100 | 1 x 100, prepared | largest difference |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    first = result["bundles"][0]
    for bundle in (*result["bundles"], *(each for each in earlier["bundles"] if each["bundle"] != first["bundle"])):
        # A row with a note was not measured in the same turns.
        ran = [row for row in bundle["systems"] if "all" in row.get("pairs_per_s", {}) and "note" not in row]
        if bundle is not first:  # variants without a feature are shown for only one model
            ran = [row for row in ran if row["system"].count(",") < 2]
        peers = [row["pairs_per_s"]["all"] for row in ran if row["system"] == GPU_REFERENCE]
        lines.append(
            f"| *{bundle['bundle']}{', the run before' if bundle not in result['bundles'] else ''}* |{' |' * 7}"
        )
        for row in sorted(ran, key=lambda row: -float(row["pairs_per_s"]["all"])):
            rate, times, error = row["pairs_per_s"]["all"], row["ms_p50_p99"], row["max_abs_diff"]
            name = f"**{row['system']}**" if row["system"].startswith("crossrt") else row["system"]
            ms = [f"{times[kind][0]:.2f}" if kind in times else "-" for kind in GPU_REQUESTS]
            share = f"{rate / peers[0]:.1f}" if peers else "-"
            difference = "-" if error is None else f"{error:.1e}"
            lines.append(f"| {name} | {rate:,.0f} | {share} | {' | '.join(ms)} | {difference} |")
        card = next((model for start, model in GPU_CARDS.items() if bundle["bundle"].startswith(start)), None)
        if card and bundle in result["bundles"]:
            lines.append(f"| the card of {card}, on a V100 | {cards[card]:,.0f} |{' |' * 6}")
    return "\n".join(lines) + "\n"


def serving_table() -> str:
    """Return pairs per second over HTTP, through `rank`, and of other servers."""
    result = load("serving")
    lists = list(result["closed"])
    lines = [f"| pairs a second | {' | '.join(lists)} |", f"|---|{'--:|' * len(lists)}"]

    def add(name: str, values: list[str]) -> None:
        lines.append(f"| {name} | {' | '.join(values)} |")

    add("**crossrt serve**", [f"{row['pairs_per_second']:,.0f}" for row in result["closed"].values()])
    add("`rank` in one process", [f"{row['in_process']:,.0f}" for row in result["closed"].values()])
    add("share", [f"{row['share']:.3f}" for row in result["closed"].values()])
    for name, rows in result.get("peers", {}).items():
        add(name, [f"{rows[kind]['pairs_per_second']:,.0f}" if kind in rows else "-" for kind in lists])
    return "\n".join(lines) + "\n"


def waiting_table() -> str:
    """Return times of a list of 10, without other load and with it."""
    lines = ["| a list of 10 | requests | p50, ms | p99, ms | p99 / p50 alone |", "|---|--:|--:|--:|--:|"]
    for row in load("serving").get("waiting", {}).values():
        lines.append(
            f"| {row['row']} | {row['requests']:,} | {row['p50_ms']} | {row['p99_ms']} | {row['p99_by_p50_alone']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def workers_table() -> str:
    """Return pairs per second of one worker and of several, and the time of a list without other load."""
    rows = load("serving")["workers"].values()
    alone = {row["bundle"]: row["p50_ms_of_100_alone"] for row in rows if "lists" not in row}
    lines = [
        "| model | lists of | one worker: pairs a second | two workers | ratio | a list of 100 alone, ms: one worker | two |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        if "lists" in row:
            times = " | ".join(f"{value:.0f}" for value in alone[row["bundle"]])
            speeds = f"{row['one_worker']:,.0f} | {row['several_workers']:,.0f} | {row['ratio']:.2f}"
            lines.append(f"| {row['bundle']} | {row['lists']} | {speeds} | {times} |")
    return "\n".join(lines) + "\n"


def overhead_table() -> str:
    """Return requests per second without a model."""
    rows = load("serving")["overhead"].values()
    beside = all("bare_processor_us" in row for row in rows)  # earlier results have no bare handler
    lines = ["| texts | requests a second | processor time of one, us |" + beside * " the bare handler | its us |"]
    lines.append("|--:|--:|--:|" + beside * "--:|--:|")
    for row in rows:
        line = f"| {row['texts']} | {row['requests_per_second']:,} | {row['processor_us']:.0f} |"
        if beside:
            line += f" {row['bare_requests_per_second']:,} | {row['bare_processor_us']:.0f} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def named(row: Mapping[str, Any]) -> str:
    """Return a system's name with its version."""
    name: str = row["system"]
    if name.startswith("crossrt"):
        return f"**{name}**"
    package = {"PyTorch": "sentence-transformers", "torch.compile": "sentence-transformers", "Optimum": "optimum"}
    key = next((package for word, package in package.items() if name.startswith(word)), name.split(" ")[0])
    versions = row["versions"]
    found = versions.get(key)
    return f"{name} ({key + ' ' if not name.startswith(key) else ''}{found})" if found else name


def reason(row: Mapping[str, Any]) -> str:
    """Return the reason why there is no figure."""
    said: str = row["failed"].split(": ", 1)[-1].split(":")[0]
    return f"failed: {said}"


RAY_JOBS = (
    ("ray_amd", "minilm-l6 int8", "MiniLM-L-6, INT8, AMD EPYC", "the clock", "seconds"),
    ("ray", "minilm-l6 int8", "MiniLM-L-6, INT8, Intel Xeon", "the clock", "seconds"),
    ("ray", "tinybert-l2 fp32", "TinyBERT-L-2, FP32, Intel Xeon", "processor time", "processor_seconds"),
)
"""Result, bundle, its name, and the measure of its job. The machine did other work during the last job."""
RAY_PLAN = ((1, 2), (10, 2), (10, 16), (100, 16))
"""Numbers of nodes, and of processors of each."""
RAY_PAIRS = 7_000_000


def ray_table() -> str:
    """Return jobs on Ray compared with one process. A job of one block shows how long the start takes."""
    lines = [
        "| | by | pairs | one process, s | on Ray, s | share of one process's speed | without the start |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for file, bundle, name, by, measured in RAY_JOBS:
        result = load(file)
        start, row = result["start"][bundle], result["speed"][bundle]
        for each, share in ((start, "-"), (row, f"{without(start, row, measured):.3f}")):
            one, ray = (median(each[measured][system]) for system in ("one process", "ray"))
            lines.append(f"| {name} | {by} | {each['pairs']:,} | {one:.1f} | {ray:.1f} | {one / ray:.3f} | {share} |")
    return "\n".join(lines) + "\n"


def without(start: Mapping[str, Any], row: Mapping[str, Any], measured: str) -> float:
    """Return Ray's share of one process's speed, from the differences between a small job and a large one."""
    small, large = start[measured], row[measured]
    one, ray = (median(large[name]) - median(small[name]) for name in ("one process", "ray"))
    return one / ray


def ray_memory_table() -> str:
    """Return the memory of a job by its size."""
    lines = ["| pairs | driver, MB | an actor, MB | the finished job once more, s |", "|--:|--:|--:|--:|"]
    for rows in load("ray")["memory"].values():
        for pairs, row in rows.items():
            lines.append(f"| {int(pairs):,} | {row['driver_mb']:.0f} | {row['actor_mb']:.0f} | {row['rerun_s']:.1f} |")
    return "\n".join(lines) + "\n"


def ray_kills_table() -> str:
    """Return what was killed, and the work that was lost."""
    found = load("ray")["kills"]
    kills = [str(found["kills"][kind]) for kind in ("actor", "raylet", "driver")]
    row = [*kills, str(found["runs"]), str(found["blocks"]), str(found["begun"] - found["blocks"])]
    return (
        "| actors killed | raylets killed | drivers killed | jobs | their blocks | begun and lost |\n"
        f"|--:|--:|--:|--:|--:|--:|\n| {' | '.join(row)} |\n"
    )


def ray_plan_table() -> str:
    """Return how long a large job would take, computed from the rate on two processors and Ray's share of one process's speed."""
    result, bundle = load("ray_amd"), "minilm-l6 int8"
    share = without(result["start"][bundle], result["speed"][bundle], "seconds")
    rate = load("serving")["closed"]["100"]["in_process"] * share
    lines = ["| nodes | processors of each | pairs/s | 7,000,000 pairs |", "|--:|--:|--:|--:|"]
    for nodes, processors in RAY_PLAN:
        speed_of_all = rate * nodes * processors / 2
        minutes = RAY_PAIRS / speed_of_all / 60
        time = f"{minutes / 60:.1f} h" if minutes >= 100 else f"{minutes:.1f} min"
        lines.append(f"| {nodes} | {processors} | {speed_of_all:,.0f} | {time} |")
    return "\n".join(lines) + "\n"


EXACT_MODELS = (("MiniLM-L-6", "exact_top_k"), ("demo model", "exact_top_k_demo"))
EXACT_WAYS = (("INT8 alone", "alone"), ("exact", "exact"), ("second pass in BF16", "second pass in BF16"))
EXACT_LISTS = ((10, 1), (50, 1), (50, 10), (100, 1), (100, 10), (1000, 1), (1000, 10), (1000, 100))
"""Lengths of lists and k that are shown."""


def exact_limits_table() -> str:
    """Return how many of all drawn lists differ from FP32's, and the upper limits of that rate."""
    lines = [
        "| model | lists | of queries | way to rank | other list | rate at most | queries with another list | share at most "
        "| near ties, failed | at most |",
        "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for model, name in EXACT_MODELS:
        found = load(name)["all"]
        for way, key in EXACT_WAYS:
            row, ties = found[key], found["near_ties"]
            lines.append(
                f"| {model} | {found['lists']:,} | {found['queries']} | {way} | {row['other_list']:,} | {row['upper_95']:.2%} "
                f"| {row['queries_with_another_list']} | {row['upper_95_of_queries']:.1%} "
                f"| {row['near_ties_other_list']:,} of {ties:,} | {row['upper_95_of_near_ties']:.2%} |"
            )
    return "\n".join(lines) + "\n"


def exact_lists_table() -> str:
    """Return how many drawn lists differ from FP32's, for some lengths and k."""
    lines = [
        "| model | passages | k | lists | near ties | INT8 alone: other best k | INT8 alone: other list | exact: other list "
        "| rate at most | scored again | BF16 second: other list |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for model, name in EXACT_MODELS:
        rows = {(row["length"], row["k"]): row for row in load(name)["quality"]}
        for length, k in EXACT_LISTS:
            row = rows[length, k]
            alone, exact = row["alone"], row["exact"]
            lines.append(
                f"| {model} | {length:,} | {k} | {row['lists']:,} | {row['near_ties']} | {alone['other_set']} "
                f"| {alone['other_list']} | {exact['other_list']} | {exact['upper_95']:.2%} | {exact['rescored']:.1f} "
                f"| {row['second pass in BF16']['other_list']} |"
            )
    return "\n".join(lines) + "\n"


def exact_speed_table() -> str:
    """Return the speed of exact rankings compared with FP32 and INT8."""
    lines = [
        "| request | model | FP32 | INT8 | exact | of FP32's speed | of INT8's speed | second pass in BF16, of INT8's speed |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for model, name in EXACT_MODELS:
        rows = load(f"{name}_speed")["speed"]
        for length in ("100", "1,000"):
            row = rows[f"1 x {length}, k = 10"]
            times = " | ".join(f"{row['ms'][way]:,.0f} ms" for way in ("fp32", "cheap", "exact"))
            ratios = ("exact over fp32", "exact over cheap", "second pass in BF16 over cheap")
            spreads = " | ".join("{:.2f} ({:.2f} to {:.2f})".format(*row[ratio]) for ratio in ratios)
            lines.append(f"| 1 x {length} | {model} | {times} | {spreads} |")
    return "\n".join(lines) + "\n"


def kinds_table(name: str) -> str:
    """Return the native kernels for each kind of processor, compared with other runtimes with the same instructions."""
    lines = [
        "| kernels | precision | pairs/s | beside OpenVINO | ONNX Runtime | PyTorch | own FP32 | mean error, overlap |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in load(name)["rows"]:
        if row["backend"] == "native":
            beside = [with_spread(row, peer) for peer in ("openvino", "onnxruntime", "pytorch", "own_fp32")]
            exact, overlap = row["precision"] == "fp32", row.get("top10_overlap")  # None for random weights
            error = "-" if exact else f"{row['mean_error']:.3f}" + ("" if overlap is None else f", {overlap:.3f}")
            beside[3] = "1" if exact else beside[3]
            rate = f"{row['pairs_per_second']:,.0f}"
            lines.append(f"| `{row['kind']}` | {row['precision'].upper()} | {rate} | {' | '.join(beside)} | {error} |")
    return "\n".join(lines) + "\n"


def kinds_of_models_table() -> str:
    """Return the native kernels compared with other runtimes for a smaller and a larger model, which have random weights."""
    results = [load(name)["rows"] for name in ("processors_tinybert", "processors_base")]
    lines = [
        "| kernels | precision | TinyBERT-L-2: pairs/s | beside OpenVINO | ONNX Runtime | BERT-base: pairs/s | beside OpenVINO "
        "| ONNX Runtime |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for rows in zip(*results, strict=True):
        if rows[0]["backend"] == "native":
            cells = [
                f"{row['pairs_per_second']:,.0f} | {with_spread(row, 'openvino')} | {with_spread(row, 'onnxruntime')}"
                for row in rows
            ]
            lines.append(f"| `{rows[0]['kind']}` | {rows[0]['precision'].upper()} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def modernbert_table() -> str:
    """Return the speed of BERT, XLM-R and ModernBERT of one width as multiples of PyTorch's."""
    rows = load("modernbert")["rows"]
    requests = list(dict.fromkeys(row["request"] for row in rows))
    lines = [f"| | {' | '.join(requests)} |", "|---|" + "--:|" * len(requests)]
    for model, scorer in dict.fromkeys((row["model"], row["scorer"]) for row in rows):
        if scorer != "PyTorch FP32":
            of_system = [row for row in rows if (row["model"], row["scorer"]) == (model, scorer)]
            cells = [
                "{:.2f} ({:.2f}-{:.2f})".format(row["times_pytorch"], *row["times_pytorch_range"]) for row in of_system
            ]
            name = scorer.replace("openvino", "OpenVINO").replace("onnxruntime", "ONNX Runtime")
            lines.append(f"| {model}, {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_spread(row: dict[str, Any], peer: str) -> str:
    """Return how many times as fast as a peer a system is: the median, and the 10th and 90th percentile."""
    if peer not in row["times_as_fast_as"]:
        return "-"
    middle, low, high = row["times_as_fast_as"][peer]
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


TABLES: dict[str, Callable[[], str]] = {
    "cpu-matrix": cpu_matrix,
    "kinds": partial(kinds_table, "processors_minilm"),
    "kinds-amd": partial(kinds_table, "processors_minilm_amd"),
    "kinds-tinybert-amd": partial(kinds_table, "processors_tinybert_amd"),
    "kinds-of-models": kinds_of_models_table,
    "modernbert": modernbert_table,
    "exact-limits": exact_limits_table,
    "exact-lists": exact_lists_table,
    "exact-speed": exact_speed_table,
    "peers": peers_table,
    "shapes": shapes_table,
    "zoo": zoo_table,
    "quality": quality_table,
    "gpu": gpu_table,
    "serving": serving_table,
    "waiting": waiting_table,
    "workers": workers_table,
    "overhead": overhead_table,
    "ray": ray_table,
    "ray-memory": ray_memory_table,
    "ray-kills": ray_kills_table,
    "ray-plan": ray_plan_table,
}
NEEDED: Mapping[str, tuple[str, ...]] = {
    "kinds": ("processors_minilm",),
    "kinds-amd": ("processors_minilm_amd",),
    "kinds-tinybert-amd": ("processors_tinybert_amd",),
    "kinds-of-models": ("processors_tinybert", "processors_base"),
    "modernbert": ("modernbert",),
    "exact-limits": ("exact_top_k", "exact_top_k_demo"),
    "exact-lists": ("exact_top_k", "exact_top_k_demo"),
    "exact-speed": ("exact_top_k_speed", "exact_top_k_demo_speed"),
    "zoo": ("zoo",),
    "quality": ("evaluate_minilm", "evaluate_demo"),
    "gpu": ("gpu", "gpu_onnxruntime", "zoo"),
    "serving": ("serving",),
    "waiting": ("serving",),
    "workers": ("serving",),
    "overhead": ("serving",),
    "ray": ("ray", "ray_amd"),
    "ray-memory": ("ray",),
    "ray-kills": ("ray",),
    "ray-plan": ("ray_amd", "serving"),
}
"""The results that a table needs. Without them it is left as it is."""


if __name__ == "__main__":
    main()
