"""`Profile`: a range of batch shapes that a TensorRT engine is built for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import OptionError

Shape = tuple[int, int]
"""Rows, and tokens of each row."""
BUCKETS = (64, 128, 256, 512)
TOKENS = 16_384
"""Tokens of the largest batch of a profile, with padding."""
ROWS = 128
"""The most rows of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The smallest, the optimal and the largest batch shape. TensorRT chooses its kernels for `opt`."""

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        for name in ("min", "opt", "max"):
            shape = tuple(getattr(self, name))
            if len(shape) != 2 or not all(type(number) is int and number >= 1 for number in shape):
                raise OptionError(f"a profile's {name} is {shape}; give rows and tokens of a row, whole numbers from 1")
            object.__setattr__(self, name, shape)
        for axis, what in enumerate(("rows", "tokens of a row")):
            smallest, usual, largest = self.min[axis], self.opt[axis], self.max[axis]
            if not smallest <= usual <= largest:
                raise OptionError(
                    f"a profile's {what} contradict each other: min {smallest}, opt {usual}, max {largest}; "
                    "min may not exceed opt, nor opt max"
                )


def profiles_for(
    max_length: int,
    *,
    lengths: npt.NDArray[np.int64] | None = None,
    tokens: int = TOKENS,
    buckets: Sequence[int] = BUCKETS,
) -> tuple[Profile, ...]:
    """Return a profile for each bucket of lengths. The last bucket ends at `max_length`.

    The largest batch of a profile has rows of the bucket's longest length, at most `ROWS` of them and at most `tokens` tokens.
    The optimal batch has as many rows of the same length. If `lengths`, int64 [n], gives the tokens of the user's pairs, its
    length is their 90th percentile within the bucket. Raises OptionError if not even one row fits.
    """
    if max_length < 1 or tokens < max_length:
        raise OptionError(f"tokens={tokens} do not hold one pair of max_length={max_length}; give at least that")
    ends = [*(end for end in buckets if end < max_length), max_length]
    profiles = []
    begin = 1
    for end in ends:
        most = max(1, min(ROWS, tokens // end))
        usual = end
        if lengths is not None and len(inside := lengths[(lengths >= begin) & (lengths <= end)]):
            usual = int(np.ceil(np.percentile(inside, 90)))
        # Every minimum is one token, since a batch may be padded to less than its bucket, or rounded up into a longer one.
        profiles.append(Profile(min=(1, 1), opt=(most, usual), max=(most, end)))
        begin = end + 1
    return tuple(profiles)


def profile_for(profiles: Iterable[Profile], shape: Shape) -> int:
    """Return the index of the first profile that takes this shape. Raises OptionError, listing the profiles, if none does."""
    listed = tuple(profiles)
    for number, profile in enumerate(listed):
        if all(low <= value <= high for low, value, high in zip(profile.min, shape, profile.max, strict=True)):
            return number
    fits = ", ".join(f"{profile.max[0]} x {profile.max[1]}" for profile in listed)
    raise OptionError(f"no profile takes {shape[0]} x {shape[1]} tokens; the largest are {fits}")
