"""Labels keep clear of points and of one another."""

import itertools
import random

from crossrt.report.charts.placement import MARK, Place, placed

WITHIN = (0.0, 0.0, 900.0, 500.0)
SIZE = (80.0, 12.0)


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def box(place: Place) -> tuple[float, ...]:
    return place.x - SIZE[0] / 2, place.y - SIZE[1] / 2, place.x + SIZE[0] / 2, place.y + SIZE[1] / 2


def test_forty_five_labels_overlap_neither_points_nor_one_another() -> None:
    rng = random.Random(0)
    points = [(rng.uniform(20, 880), rng.uniform(100, 400)) for _ in range(45)]
    places = placed(points, [SIZE] * 45, within=WITHIN)
    found = [place for place in places if place]
    assert len(found) == 45
    assert not any(overlap(box(one), box(other)) for one, other in itertools.combinations(found, 2))
    marks = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    assert not any(overlap(box(place), mark) for place in found for mark in marks)
    assert all(box(place)[0] >= 0 and box(place)[2] <= 900 for place in found)


def test_a_label_leaves_a_line_free_where_there_is_room() -> None:
    (place,) = placed([(400.0, 250.0)], [SIZE], within=WITHIN, lines=[[(300.0, 262.0), (500.0, 262.0)]])
    assert place
    assert not overlap(box(place), (300, 261.5, 500, 262.5))


def test_points_on_one_spot_get_a_line_to_their_labels() -> None:
    places = placed([(400.0, 250.0)] * 12, [SIZE] * 12, within=WITHIN)
    assert all(places)
    assert any(place.led for place in places if place)


def test_without_room_there_is_no_place() -> None:
    assert placed([(5.0, 5.0)], [SIZE], within=(0.0, 0.0, 10.0, 10.0)) == [None]
