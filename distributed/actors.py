"""`scored`: runs blocks through a pool of actors of Ray Data."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..engine.errors import BackendError, DataFileError
from .cluster import Pool, first_line
from .scorer import BlockScorer, Work


def scored(ray: Any, work: Work, names: Sequence[str], pool: Pool) -> Iterator[str]:
    """Score the blocks of these names, and yield each that is committed.

    An actor or node that ends is replaced by Ray Data, and its blocks are given to others. Raises DataFileError, which says why,
    for a block that fails, and BackendError where Ray gives up.
    """
    _silence(ray)
    # One name in each of Ray Data's blocks: left to itself it would put all into one, which is scored by one actor.
    dataset = ray.data.from_items([{"name": name} for name in names], override_num_blocks=len(names)).map_batches(
        BlockScorer,
        fn_constructor_kwargs={"work": replace(work, threads=pool.threads)},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool.actors, initial_size=pool.actors),
        num_cpus=pool.threads,
        num_gpus=pool.gpus or None,
    )
    count = 0
    try:
        for row in dataset.iter_rows():
            if row["error"]:
                raise DataFileError(
                    f"{row['error']}. {count} of {len(names)} blocks were committed since the job was started"
                )
            count += 1
            yield str(row["name"])
    except ray.exceptions.RayError as error:
        raise BackendError(
            f"Ray gave up after {count} of {len(names)} blocks ({first_line(error)}); the same command goes on from there"
        ) from error


def _silence(ray: Any) -> None:
    """Turn off what Ray Data prints about its own execution: the job has its own progress."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
