"""`Plan`: the blocks of a job, and which of them must still be scored."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .folder import BEGUN, PARTS, ROWS, Folder
from .rows import Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The blocks of a job.

    `names` are all blocks, in the order of the run. `missing` are the blocks without a part, with their numbers of pairs. `pairs`
    is the number of pairs in all blocks.
    """

    names: Sequence[str]
    missing: Mapping[str, int]
    pairs: int

    @property
    def earlier(self) -> int:
        """Number of pairs that earlier starts of the job scored."""
        return self.pairs - sum(self.missing.values())


def planned(folder: Folder, blocks: Iterable[Block]) -> Plan:
    """Write the rows of each block that has no part, one block at a time, and return the plan."""
    done = folder.names(PARTS)
    names: list[str] = []
    missing: dict[str, int] = {}
    pairs = 0
    folder.remove(BEGUN)  # attempts of an earlier start do not count
    for block in blocks:
        name = block.name
        names.append(name)
        pairs += block.pairs
        if name not in done:
            missing[name] = block.pairs
            folder.write(f"{ROWS}/{name}", block.to_parquet())
    return Plan(names=names, missing=missing, pairs=pairs)
