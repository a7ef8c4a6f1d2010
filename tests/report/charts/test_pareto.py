"""Quality against speed."""

import re
from typing import Any

from crossrt.report.charts.pareto import Point, frontier, pareto
from crossrt.speed.result.speeds import Spread


def point(speed: float, quality: float, model: str = "m", precision: str = "fp32", **fields: Any) -> Point:
    made = Spread(median=speed, p5=0.9 * speed, p95=1.1 * speed, repeats=5)
    return Point(model=model, precision=precision, speed=made, quality=quality, says=f"{model} {speed:g}", **fields)


def test_the_frontier_has_what_no_other_point_beats() -> None:
    best = [point(1, 0.9), point(10, 0.8), point(100, 0.7)]
    beaten = [point(5, 0.75), point(1, 0.85), point(100, 0.65), point(10, 0.8)]
    assert frontier([*beaten, *best]) == best


def test_every_point_is_labelled_and_says_its_values() -> None:
    points = [
        point(speed * times, quality, f"model-{place}", precision)
        for place, (speed, quality) in enumerate([(10, 0.7), (20, 0.68), (21, 0.681), (300, 0.6)])
        for precision, times in (("fp32", 1.0), ("bf16", 1.6), ("int8", 2.2))
    ]
    for picture in pareto(points, name="p", measure="nDCG@10").values():
        for place in range(4):
            assert len(re.findall(f">model-{place} fp32</text>", picture.svg)) == 1
        for precision in ("bf16", "int8"):
            assert len(re.findall(f">{precision}</text>", picture.svg)) == 4
        assert set(re.findall(r"<title>(.*?)</title>", picture.svg)) == {one.says for one in points}


def test_what_is_far_below_the_points_is_said_and_does_not_squeeze_them() -> None:
    points = [point(10, 0.70), point(20, 0.69)]
    near = pareto(points, name="p", measure="q", levels={"bm25": 0.685})["wide"].svg
    far = pareto(points, name="p", measure="q", levels={"bm25": 0.2})["wide"].svg
    assert "bm25 0.685<" in near
    assert "bm25 0.2, below<" in far


def test_one_point_alone_is_drawn() -> None:
    assert ">m fp32</text>" in pareto([point(10, 0.5)], name="p", measure="q")["narrow"].svg
