"""Labels beside points that cover neither one another nor a point."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

DISTANCES = (4, 8, 14, 22, 32, 44, 58, 75, 95, 120, 150, 190)
DIRECTIONS = (0, 90, 270, 180, 45, 315, 135, 225, 20, 340, 160, 200, 65, 295, 115, 245)
"""Degrees, those first that a reader expects."""
MARK = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a label's middle lies. `led` tells that it is so far from its point that a line must lead to it."""

    x: float
    y: float
    led: bool


def placed(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    within: Box,
    marks: Iterable[tuple[float, float]] = (),
) -> list[Place | None]:
    """Return a place for each point's label, [width, height], inside the box; None where none is left.

    Labels keep clear of all `marks`, of one another, and of the lines that lead to others. Those where it is crowded come first.
    """
    taken: list[Box] = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in {*marks, *points}]
    crowd = [sum(abs(x - a) < 60 and abs(y - b) < 20 for a, b in points) for x, y in points]
    found: list[Place | None] = [None] * len(points)
    for index in sorted(range(len(points)), key=lambda index: (-crowd[index], points[index], index)):
        box = _free(points[index], sizes[index], taken, within)
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
    point: tuple[float, float], size: tuple[float, float], taken: Sequence[Box], within: Box
) -> tuple[Box, float] | None:
    x, y = point
    width, height = size
    for distance in DISTANCES:
        for direction in DIRECTIONS:
            across, up = math.cos(math.radians(direction)), math.sin(math.radians(direction))
            # The label's nearest point, not its middle, is at the distance.
            middle = x + across * (MARK + distance + width / 2), y + up * (MARK + distance + height / 2)
            box = (middle[0] - width / 2, middle[1] - height / 2, middle[0] + width / 2, middle[1] + height / 2)
            inside = within[0] <= box[0] and within[1] <= box[1] and box[2] <= within[2] and box[3] <= within[3]
            if not inside or any(_overlap(box, other) for other in taken):
                continue
            line = _line(point, _nearest(point, box)) if distance > 10 else []
            if not any(_overlap(piece, other) for piece in line for other in taken):
                return box, distance
    return None


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _nearest(point: tuple[float, float], box: Box) -> tuple[float, float]:
    return min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3])


def _line(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Small boxes along a line, but for its first piece, which is its own mark."""
    length = math.dist(start, end)
    steps = max(1, int(length / 4))
    at = [
        (start[0] + (end[0] - start[0]) * step / steps, start[1] + (end[1] - start[1]) * step / steps)
        for step in range(1, steps)
        if length * step / steps > 2 * MARK
    ]
    return [(x - 0.5, y - 0.5, x + 0.5, y + 0.5) for x, y in at]
