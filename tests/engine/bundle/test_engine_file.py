"""The GPU and versions that an engine can run with, and the shapes it takes."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossrt.engine.bundle.engine_file import EngineFile
from crossrt.engine.bundle.profiles import Profile, profile_for, profiles_for
from crossrt.engine.errors import OptionError
from crossrt.engine.files.record import record
from tests.engine.samples import engine_file

ENGINE = engine_file(
    profiles=profiles_for(512), onnx_sha256="0" * 64, build_seconds=12.5, options={"optimization_level": 3}
)


def test_an_engine_is_read_back_as_it_was_written() -> None:
    assert record(EngineFile, json.loads(json.dumps(dataclasses.asdict(ENGINE)))) == ENGINE


def test_where_it_was_built_it_runs() -> None:
    assert ENGINE.mismatch(library="tensorrt", version="10.13.0", gpu="NVIDIA H200", capability="9.0") == ""


@pytest.mark.parametrize(
    "other", [{"library": "tensorrt_rtx"}, {"version": "11.0.0"}, {"gpu": "NVIDIA L4"}, {"capability": "8.9"}]
)
def test_elsewhere_the_message_names_both_sides(other: dict[str, str]) -> None:
    here = {"library": "tensorrt", "version": "10.13.0", "gpu": "NVIDIA H200", "capability": "9.0", **other}
    said = ENGINE.mismatch(**here)
    assert all(word in said for word in ("tensorrt 10.13.0", "NVIDIA H200", "9.0", next(iter(other.values()))))


@given(st.integers(1, 512), st.integers(1, 512), st.integers(1, 128))
def test_every_shape_within_the_budget_has_a_profile(max_length: int, sequence: int, rows: int) -> None:
    profiles = profiles_for(max_length)
    sequence = min(sequence, max_length)
    bucket = next(profile for profile in profiles if sequence <= profile.max[1])
    rows = min(rows, bucket.max[0])
    chosen = profiles[profile_for(profiles, (rows, sequence))]
    assert chosen.min <= (rows, sequence)
    assert rows <= chosen.max[0]
    assert sequence <= chosen.max[1]
    assert all(profile.max[0] * profile.max[1] <= 16_384 for profile in profiles)


def test_kernels_are_chosen_for_the_users_lengths() -> None:
    lengths = np.array([20] * 50 + [100] * 50)
    short, middle, *rest = profiles_for(512, lengths=lengths)
    assert short.opt[1] == 20
    assert middle.opt[1] == 100
    assert [profile.opt[1] for profile in rest] == [256, 512]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"min": (1, 8), "opt": (1, 4), "max": (2, 8)}, "min 8, opt 4, max 8"),
        ({"min": (1, 1), "opt": (4, 4), "max": (2, 8)}, "rows contradict each other: min 1, opt 4, max 2"),
        ({"min": (0, 1), "opt": (1, 1), "max": (1, 1)}, "whole numbers from 1"),
        ({"min": (1, 1, 1), "opt": (1, 1), "max": (1, 1)}, "rows and tokens"),
        ({"min": (1, 1.5), "opt": (1, 2), "max": (1, 2)}, "whole numbers"),
    ],
)
def test_profiles_that_contradict_themselves_say_how(shapes: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Profile(**shapes)


def test_a_shape_that_no_profile_takes_is_told_what_does() -> None:
    with pytest.raises(OptionError, match="129 x 64 tokens; the largest are 128 x 64"):
        profile_for(profiles_for(512), (129, 64))


def test_a_budget_that_holds_no_pair_is_refused() -> None:
    with pytest.raises(OptionError, match="tokens=100 do not hold one pair of max_length=512"):
        profiles_for(512, tokens=100)


@pytest.mark.parametrize(
    ("option", "other", "runs"),
    [
        ("hardware_compatible", {"gpu": "NVIDIA L4", "capability": "8.9"}, True),
        ("hardware_compatible", {"gpu": "NVIDIA B200", "capability": "10.0"}, True),
        ("hardware_compatible", {"gpu": "Tesla T4", "capability": "7.5"}, False),
        ("hardware_compatible", {"version": "10.14.0"}, False),
        ("version_compatible", {"version": "10.14.0.17"}, True),
        ("version_compatible", {"version": "10.9.0"}, False),
        ("version_compatible", {"version": "11.0.0"}, False),
        ("version_compatible", {"gpu": "NVIDIA L4", "capability": "8.9"}, False),
    ],
)
def test_what_an_engine_was_built_to_run_on_it_runs_on(option: str, other: dict[str, str], runs: bool) -> None:
    here = {"library": "tensorrt", "version": "10.13.0", "gpu": "NVIDIA H200", "capability": "9.0", **other}
    assert ENGINE.mismatch(**here)
    loose = dataclasses.replace(ENGINE, options={option: True})
    assert (loose.mismatch(**here) == "") == runs


def test_an_entry_from_before_attention_was_read_is_unmeasured() -> None:
    fields = dataclasses.asdict(ENGINE)
    del fields["attention"]
    assert record(EngineFile, json.loads(json.dumps(fields))).attention == "unmeasured"
