"""`scored` runs blocks through a pool of Ray Data actors."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..engine.errors import BackendError, DataFileError
from .cluster import Pool, first_line
from .scorer import BlockScorer, Work


def scored(ray: Any, work: Work, names: Sequence[str], pool: Pool) -> Iterator[str]:
    """Score the blocks with these names. Yield the name of each block that is committed.

    Ray Data replaces an actor or node that ends, and gives its blocks to others. Raises DataFileError with the reason for a block
    that fails, and BackendError when Ray gives up.
    """
    _silence(ray)
    # One name per block of Ray Data. By default it would put all names into one block, which one actor would score.
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
    """Turn off what Ray Data prints about its execution, since the job shows its own progress."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
