"""`evaluate` ranks a collection with every model and measures the rankings."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..calibration.paired_difference import PairedDifference
from ..engine.cascade import Cascade
from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import BackendError, DataFileError, OptionError
from ..engine.files.lock import file_lock
from ..engine.files.publish import clear_abandoned, replaced_text
from ..engine.selection.execution_config import CpuConfig
from ..measurement.environment import commit, machine, versions
from ..measurement.model_config import CANDIDATES
from ..measurement.provenance import Provenance
from .agreement import TOP, Agreement
from .collection import Collection
from .measures import Measures
from .ranker_configs import RankerConfig
from .result import Evaluation, Ranking
from .resumable_run import Effort, ResumableRun
from .run_file import RunFile

RESULT, PER_QUERY = "result.json", "queries.jsonl"

Values = dict[str, list[list[float]]]
"""The measures of each query, in the order of `Measures.names`, by ranking label."""
TopTens = dict[str, list[list[str]]]
"""The best ten passages of each query that has candidates, by ranking label."""


def evaluate(
    configs: Sequence[RankerConfig],
    collection: Collection,
    folder: Path,
    *,
    measures: Measures,
    baseline: str | None = None,
    restart: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Rerank the collection's candidates with each row, measure all rankings, and write everything into `folder`.

    The caller has locked the folder with `locked_folder`. `configs` come from `ranker_configs`. A row that leaves passages out,
    such as a cascade, comes after the row that ranks these passages. `LABEL.run.trec` is the run of a row, `queries.jsonl` holds
    the measures of every query, and `result.json` the result.

    Queries are scored one at a time, and each is flushed to disk before the next. An interrupted evaluation therefore continues
    where it stopped, and its output has the same bytes except for the times. Finished runs are not computed again. `baseline` is
    the label of the row that the others are compared with, by default the first row, or the candidates if there is only one row.
    Judged queries without candidates count as empty lists.

    Raises DataFileError if the folder holds another evaluation's runs, unless `restart` replaces them; OptionError for an unknown
    baseline; BackendError for a model that gives a score that is not a finite number.
    """
    labels = [*([CANDIDATES] if collection.ordered else []), *(config.label for config in configs)]
    if baseline is None:
        baseline = configs[0].label if len(configs) > 1 or not collection.ordered else CANDIDATES
    if baseline not in labels:
        raise OptionError(f"--baseline {baseline!r}: one of {', '.join(labels)}")
    runs = _runs(configs, collection, folder, restart=restart)
    _score(configs, collection, runs, progress=progress)
    values, top_tens = _measured(configs, collection, runs, measures)
    queries = [*collection.evaluated, *collection.unanswered]
    with replaced_text(folder / PER_QUERY) as file:
        for place, query in enumerate(queries):
            found = {label: dict(zip(measures.names, rows[place], strict=True)) for label, rows in values.items()}
            file.write(json.dumps({"query": query, "measures": found}, ensure_ascii=False) + "\n")
    result = _result(configs, collection, runs, measures, values, top_tens, baseline)
    with replaced_text(folder / RESULT) as file:
        file.write(result.to_json())
    return result


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process. Create it if it is missing. Raises DataFileError if that is not possible."""
    lock = folder / ".lock"
    with ExitStack() as holding:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            holding.enter_context(file_lock(lock))
        except BlockingIOError as error:
            raise DataFileError(
                f"{folder} is in use by another evaluation; wait for it, or give another --out"
            ) from error
        except OSError as error:
            where = f"{lock} " if error.filename == str(lock) else ""
            raise DataFileError(
                f"--out {folder} cannot be written to ({where}{error.strerror}); give another directory"
            ) from error
        clear_abandoned(folder)
        yield


def _runs(
    configs: Sequence[RankerConfig], collection: Collection, folder: Path, *, restart: bool
) -> dict[str, ResumableRun]:
    data = {name: collection.sources[name] for name in ("queries", "passages", "run", "judged")}
    on = {name: source.sha256 or source.name for name, source in data.items()} | {"depth": collection.depth}
    return {
        config.label: ResumableRun(
            folder / f"{config.label}.run.trec",
            fingerprint={**config.fingerprint, **on},
            queries=len(collection.evaluated),
            restart=restart,
        )
        for config in configs
    }


def _score(
    configs: Sequence[RankerConfig], collection: Collection, runs: Mapping[str, ResumableRun], *, progress: bool
) -> None:
    waiting = [config for config in configs if not runs[config.label].finished]
    if len(waiting) > 1:
        # A model that cannot be opened, or cannot use the passages, should fail before the others take hours.
        for model in {model.label: model for config in waiting for model in config.models}.values():
            with model.open() as opened:
                collection.passages.check(opened)
    sizes = list(collection.evaluated.values())
    done = sum(sum(sizes[: runs[config.label].done]) for config in configs)
    with tqdm(total=len(configs) * sum(sizes), initial=done, unit="pair", smoothing=0.1, disable=not progress) as bar:
        for config in waiting:
            bar.set_description(config.label)
            run = runs[config.label]
            rest = None if config.rest_label is None else RunFile(runs[config.rest_label].target)
            with config.open() as ranker:
                for query, ids in collection.lists(run.done):
                    best, effort = _best(config, ranker, collection, query, ids)
                    scores = best if rest is None else _followed(best, rest.candidates(query))
                    run.append(query, scores, tag=config.label, effort=effort)
                    bar.update(len(ids))
            run.finish()


def _best(
    config: RankerConfig, ranker: CrossEncoder | Cascade, collection: Collection, query: str, ids: Sequence[str]
) -> tuple[dict[str, float], Effort]:
    """Return the scores of the passages that the row returns for a query, and the time and truncation."""
    copies = 1
    if config.rest_label is None and isinstance(config.models[0].execution, CpuConfig):
        # A model's first request uses other kernels than later ones if it has fewer pairs than streams, and an interrupted
        # evaluation has two first requests. So a short list is repeated until it has enough pairs. Only whole copies are added,
        # so that the truncation counts can be divided by their number.
        copies = max(1, -(-config.models[0].execution.streams // len(ids)))
    passages = collection.passages.rank_arguments([*ids] * copies)
    cut, begin = ranker.truncation, time.perf_counter()
    found = ranker.rank(collection.queries[query], **passages, **config.rank_options)
    seconds = time.perf_counter() - begin
    effort = Effort(seconds=seconds, pairs=len(ids), truncation=ranker.truncation.since(cut).of_one(copies))
    scores = {ids[each["corpus_id"]]: each["score"] for each in found if each["corpus_id"] < len(ids)}
    for passage, score in scores.items():
        if not math.isfinite(score):
            raise BackendError(
                f"{config.label} scores passage {passage} of query {query} as {score}: numbers overflow in this precision; "
                "try another, or export the bundle again with pairs like these"
            )
    return scores, effort


def _followed(best: Mapping[str, float], rest: Mapping[str, float]) -> dict[str, float]:
    """Return the best passages, followed by the others in the order of `rest`, each with a score 1 below the one before.

    Their own scores, lowered below the best, could be equal in the 32 bits that trec_eval reads.
    """
    lowest = math.floor(min(best.values(), default=0.0))
    others = (passage for passage in rest if passage not in best)
    return {**best, **{passage: float(lowest - place) for place, passage in enumerate(others, start=1)}}


def _measured(
    configs: Sequence[RankerConfig], collection: Collection, runs: Mapping[str, ResumableRun], measures: Measures
) -> tuple[Values, TopTens]:
    """Measure the candidates and the rankings in the run files. Each file is read once, one query at a time."""
    rankings: dict[str, Iterable[tuple[str, list[str]]]] = {}
    if collection.ordered:
        rankings[CANDIDATES] = collection.lists()
    for config in configs:
        rankings[config.label] = _lists(runs[config.label].target)
    values: Values = {}
    top_tens: TopTens = {}
    for label, lists in rankings.items():
        values[label], top_tens[label] = [], []
        for query, ids in lists:
            values[label].append(measures.of(collection.qrels[query], ids))
            top_tens[label].append(ids[:TOP])
        values[label] += [measures.of(collection.qrels[query], []) for query in collection.unanswered]
    return values, top_tens


def _lists(target: Path) -> Iterator[tuple[str, list[str]]]:
    run = RunFile(target)
    for query in run:
        yield query, list(run.candidates(query))


def _result(
    configs: Sequence[RankerConfig],
    collection: Collection,
    runs: Mapping[str, ResumableRun],
    measures: Measures,
    values: Values,
    top_tens: TopTens,
    baseline: str,
) -> Evaluation:
    of = {config.label: config for config in configs}
    rankings = []
    for label, rows in values.items():
        changes = {
            name: PairedDifference.of([row[place] for row in values[baseline]], [row[place] for row in rows])
            for place, name in enumerate(measures.names)
        }
        means = {name: change.candidate for name, change in changes.items()}
        # When the candidates are the baseline, their order is to be improved and not to be kept.
        compared = label != baseline != CANDIDATES
        agreement = Agreement.of(zip(top_tens[baseline], top_tens[label], strict=True)) if compared else None
        about = _about(of[label], runs[label], agreement) if label in of else {}
        rankings.append(Ranking(label=label, means=means, changes=None if label == baseline else changes, **about))
    return Evaluation(
        machine=machine(),
        versions=versions("openvino", "ir_measures", "bm25s", "ir_datasets"),
        commit=commit(),
        collection=collection.name,
        description=collection.describe(),
        sources=collection.sources,
        queries=len(collection.evaluated) + len(collection.unanswered),
        unanswered=len(collection.unanswered),
        pairs=collection.pairs,
        depth=collection.depth,
        limit=collection.limit,
        measures=list(measures.names),
        baseline=baseline,
        rankings=rankings,
    )


def _about(config: RankerConfig, run: ResumableRun, agreement: Agreement | None) -> dict[str, Any]:
    decider, effort = config.models[-1], run.effort
    return {
        "model": decider.bundle.manifest.source.get("id"),
        "bundle_sha256": decider.bundle_sha256,
        "precision": decider.precision.value,
        "method": config.method,
        "runs_on": decider.runs_on,
        "max_length": decider.fingerprint["max_length"],
        "run": Provenance.of_file(run.target),
        "agreement": agreement,
        "pairs_per_s": effort.pairs / effort.seconds if effort and effort.seconds else None,
        "truncation": effort.truncation if effort else None,
    }
