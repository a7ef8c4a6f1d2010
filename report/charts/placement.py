"""`placed` positions labels beside points, so that labels cover neither each other nor a point."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

DISTANCES = (4, 8, 14, 22, 32, 44, 58, 75, 95, 120, 150, 190)
DIRECTIONS = (90, 270, 45, 315, 135, 225, 0, 180, 20, 340, 160, 200, 65, 295, 115, 245)
"""Degrees, in order of preference."""
MARK = 5


@dataclass(frozen=True, slots=True)
class Place:
    """The centre of a label. `led` is True if the label is so far from its point that it needs a leader line."""

    x: float
    y: float
    led: bool


def placed(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    within: Box,
    lines: Iterable[npt.ArrayLike] = (),
) -> list[Place | None]:
    """Return a place inside the box for each point's label of the given width and height, or None if no place is free.

    Labels avoid the points, each other, the leader lines of other labels and, if there is room, `lines` [n, 2]. A leader line
    crosses another only if there is no other way. Labels in crowded places are placed first.
    """
    taken: list[Box] = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    drawn = [
        piece
        for line in lines
        for start, end in itertools.pairwise(np.asarray(line, dtype=float).tolist())
        for piece in _pieces(start, end)
    ]
    crowd = [sum(abs(x - a) < 60 and abs(y - b) < 20 for a, b in points) for x, y in points]
    found: list[Place | None] = [None] * len(points)
    for index in sorted(range(len(points)), key=lambda index: (-crowd[index], points[index], index)):
        point, size = points[index], sizes[index]
        box = (
            _free(point, size, [*taken, *drawn], within)
            or _free(point, size, taken, within)
            or _free(point, size, taken, within, crossing=True)
        )
        if box is None:
            continue
        (left, bottom, right, top), distance = box
        taken.append((left - 1, bottom, right + 1, top))
        place = Place((left + right) / 2, (bottom + top) / 2, distance > 10)
        if place.led:
            taken += _line(points[index], _nearest(points[index], box[0]))
        found[index] = place
    return found


def _free(
    point: tuple[float, float],
    size: tuple[float, float],
    taken: Sequence[Box],
    within: Box,
    *,
    crossing: bool = False,
) -> tuple[Box, float] | None:
    x, y = point
    width, height = size
    for distance in DISTANCES:
        for direction in DIRECTIONS:
            across, up = math.cos(math.radians(direction)), math.sin(math.radians(direction))
            # The distance is measured to the label's edge, not to its centre.
            middle = x + across * (MARK + distance + width / 2), y + up * (MARK + distance + height / 2)
            box = (middle[0] - width / 2, middle[1] - height / 2, middle[0] + width / 2, middle[1] + height / 2)
            inside = within[0] <= box[0] and within[1] <= box[1] and box[2] <= within[2] and box[3] <= within[3]
            if not inside or any(_overlap(box, other) for other in taken):
                continue
            line = _line(point, _nearest(point, box)) if distance > 10 and not crossing else []
            if not any(_overlap(piece, other) for piece in line for other in taken):
                return box, distance
    return None


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _nearest(point: tuple[float, float], box: Box) -> tuple[float, float]:
    return min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3])


def _line(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Return small boxes along the leader line from a point to its label, without the part on the marker."""
    return [
        piece
        for piece in _pieces(start, end)
        if math.dist(start, ((piece[0] + piece[2]) / 2, (piece[1] + piece[3]) / 2)) > 2 * MARK
    ]


def _pieces(start: Sequence[float], end: Sequence[float]) -> list[Box]:
    steps = max(1, int(math.dist(start, end) / 4))
    at = [[a + (b - a) * step / steps for a, b in zip(start, end, strict=True)] for step in range(steps + 1)]
    return [(x - 0.5, y - 0.5, x + 0.5, y + 0.5) for x, y in at]
