"""The contract of sessions, run against every backend; the choice of a backend on a CPU."""

import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt.engine.backends.base import Session
from crossrt.engine.backends.registry import ONNX_BACKENDS, installed_backends
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.cross_encoder import CrossEncoder
from crossrt.engine.errors import BackendError, BundleError, OptionError, ShapeError
from crossrt.engine.precision import Precision
from crossrt.engine.runtime.autotune import Candidate, candidates, fastest
from crossrt.engine.selection import select_cpu, tuning
from crossrt.engine.selection.select import choose_execution
from crossrt.engine.selection.tuning import Tuning
from tests.engine.samples import batch_of, cpu_config
from tests.processors import openvino_has_bf16

ATOL = 2e-5  # FP32 noise of another order of sums: 2.6e-6 measured between backends without FMA


@pytest.fixture(params=ONNX_BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param not in installed_backends():
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture
def session(bundle: Path, backend: str) -> Iterator[Session]:
    opened = cpu_config(backend).open(Bundle.open(bundle), threads=1, streams=2)
    yield opened
    opened.close()


def test_a_session_says_what_it_is_and_returns_logits_that_the_caller_owns(session: Session, backend: str) -> None:
    assert (session.backend, session.device, session.threads) == (backend, "cpu", 1)
    first = session.run(batch_of(3, 12))
    assert first.shape == (3, 1)
    assert first.dtype == np.float32
    kept = first.copy()
    session.run(batch_of(3, 12, seed=1))
    np.testing.assert_array_equal(first, kept)
    first[:] = 0  # writable
    np.testing.assert_array_equal(session.run(batch_of(3, 12)), kept)


@pytest.mark.processor
def test_every_backend_gives_the_same_scores(bundle: Path, session: Session) -> None:
    reference = cpu_config("onnxruntime").open(Bundle.open(bundle), threads=1, streams=1)
    for rows, length in itertools.product((1, 2, 9), (1, 5, 33, 64)):
        batch = batch_of(rows, length, seed=length)
        np.testing.assert_allclose(session.run(batch), reference.run(batch), atol=ATOL)


def test_a_path_that_is_no_unicode_is_opened_or_refused_in_words(
    bundle: Path, backend: str, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(bundle, odd)
    if backend == "onnxruntime":
        with pytest.raises(
            BackendError, match=r"the name is not valid UTF-8, and ONNX Runtime cannot .* another backend"
        ):
            CrossEncoder(odd, backend=backend, device="cpu")
        return
    with CrossEncoder(odd, backend=backend, device="cpu") as model, CrossEncoder(bundle, backend=backend) as same:
        np.testing.assert_array_equal(model.predict(pairs), same.predict(pairs))


def test_many_threads_share_a_session(session: Session) -> None:
    batches = [batch_of(4, length, seed=length) for length in range(3, 40)]
    expected = [session.run(batch) for batch in batches]
    wrong: list[int] = []

    def work() -> None:
        for place, batch in enumerate(batches):
            if not np.allclose(session.run(batch), expected[place], atol=ATOL):
                wrong.append(place)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_batch_beyond_the_models_positions_is_refused_with_what_fits(session: Session) -> None:
    with pytest.raises(ShapeError, match=r"accepts  sequence 1\.\."):
        session.run(batch_of(1, 5000))


def test_a_closed_session_says_so(session: Session) -> None:
    session.close()
    session.close()
    batch = batch_of(1, 4)
    for call in (lambda: session.run(batch), lambda: session.score(batch.pairs(), np.arange(1), 4)):
        with pytest.raises(BackendError, match="is closed; open the bundle again"):
            call()


def test_a_session_closed_while_threads_call_it_scores_or_refuses(session: Session) -> None:
    batch = batch_of(4, 20)
    expected = session.run(batch)
    outcomes: list[Any] = []
    started = threading.Barrier(5)

    def work() -> None:
        try:
            started.wait()
            while True:
                np.testing.assert_allclose(session.run(batch), expected, atol=ATOL)
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]  # more than the session has streams
    for thread in threads:
        thread.start()
    started.wait()
    session.close()
    for thread in threads:
        thread.join(timeout=30)
    assert [str(error) for error in outcomes] == ["this model is closed; open the bundle again"] * 4


def test_a_model_file_that_is_none_is_an_error_of_the_bundle(bundle: Path, backend: str, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bad")
    opened = Bundle.open(tmp_path / "bad")
    opened.model_file(Precision.FP32).write_bytes(b"not a model")
    with pytest.raises(BundleError, match="cannot be opened by"):
        cpu_config(backend).open(opened, threads=1, streams=1)


@pytest.mark.processor
def test_the_whole_api_runs_on_every_backend(bundle: Path, backend: str) -> None:
    pairs = [("river", "city " * count) for count in range(40)]
    with CrossEncoder(bundle) as reference, CrossEncoder(bundle, backend=backend) as model:
        assert model.backend == backend
        np.testing.assert_allclose(model.predict(pairs), reference.predict(pairs), atol=ATOL)
        np.testing.assert_allclose(model.predict(pairs[0]), reference.predict(pairs[0]), atol=ATOL)


@pytest.mark.processor
def test_bf16_runs_by_openvino_where_the_processor_has_it_and_is_refused_elsewhere(bundle: Path) -> None:
    openvino = pytest.importorskip("openvino")
    if openvino_has_bf16():
        with CrossEncoder(bundle, precision="bf16") as model:
            assert (model.precision, model.backend) == (Precision.BF16, "openvino")
    else:
        listed = ", ".join(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        said = f"not what this processor computes in .* OpenVINO lists {listed}; use fp32 or int8"
        with pytest.raises(BackendError, match=said):
            CrossEncoder(bundle, precision="bf16")


@pytest.mark.parametrize(
    ("listed", "computed"),
    [
        (["FP32", "BIN"], {"fp32": "f32", "int8": "f32"}),
        (["WINOGRAD", "FP32", "INT8", "BIN"], {"fp32": "f32", "int8": "f32"}),
        (["BF16", "FP32", "INT8"], {"fp32": "f32", "int8": "bf16", "bf16": "bf16"}),
    ],
)
def test_openvino_computes_in_bf16_where_it_lists_that(listed: list[str], computed: dict[str, str]) -> None:
    pytest.importorskip("openvino")
    from crossrt.engine.backends.openvino import floating_point

    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return listed

    for precision in (Precision.FP32, Precision.INT8, Precision.BF16):
        if precision.value in computed:
            assert floating_point(Core(), precision) == computed[precision.value]
        else:
            with pytest.raises(BackendError, match=f"OpenVINO lists {', '.join(listed)}; use fp32 or int8"):
                floating_point(Core(), precision)


def test_bf16_is_refused_by_who_does_not_compute_in_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="onnxruntime does not compute in bf16 on a CPU; use backend='openvino'"):
        CrossEncoder(bundle, precision="bf16", backend="onnxruntime")
    monkeypatch.setattr(select_cpu, "installed_backends", lambda *_: ("onnxruntime",))
    with pytest.raises(BackendError, match="bf16 needs openvino, which is not installed"):
        CrossEncoder(bundle, precision="bf16")


def test_a_backend_that_is_not_installed_says_how_to_install_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_cpu, "installed_backends", lambda *_: ("onnxruntime",))
    with pytest.raises(BackendError, match=r'openvino is not installed: pip install "crossrt\[cpu\]"'):
        choose_execution(Bundle.open(bundle), backend="openvino")
    monkeypatch.setattr(select_cpu, "installed_backends", lambda *_: ("openvino",))
    assert choose_execution(Bundle.open(bundle)).backend == "openvino"


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_a_number_of_threads_that_is_none_is_refused(bundle: Path, threads: Any) -> None:
    with pytest.raises(OptionError, match="give a whole number from 1"):
        choose_execution(Bundle.open(bundle), threads=threads)


# -- tuning


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSRT_CACHE", str(tmp_path))
    return tmp_path / "tunings"


def test_auto_obeys_what_was_tuned_for_this_model_and_machine(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Bundle.open(bundle)
    untuned = choose_execution(opened)
    assert untuned.reason.startswith("not tuned")
    kept = Tuning(backend="openvino", streams=1, batch_size=7)
    for precision in (Precision.FP32, Precision.BF16):
        assert Tuning.load(opened, precision, untuned.threads) is None
        kept.store(opened, precision, untuned.threads)
        assert Tuning.load(opened, precision, untuned.threads) == kept
    config = choose_execution(opened)
    assert (config.backend, config.streams, config.batch_size) == ("openvino", 1, 7)
    assert "crossrt tune measured" in str(config)
    assert (
        choose_execution(opened, backend="onnxruntime").backend == "onnxruntime"
    )  # an explicit choice takes precedence
    assert choose_execution(opened, tuned=False) == untuned
    monkeypatch.setattr(tuning, "processor", lambda: "another processor")
    assert choose_execution(opened) == untuned


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"of": {}, "tuning": {"backend": "rm -rf", "streams": 1, "batch_size": 1}}',
        '{"of": {}, "tuning": {"backend": "onnxruntime", "streams": 0, "batch_size": 1}}',
        '{"of": {}, "tuning": {"backend": "onnxruntime", "streams": 1, "batch_size": 0}}',
        '{"of": {}, "tuning": {"backend": "onnxruntime", "streams": true, "batch_size": 1}}',
        '{"of": {}, "tuning": {"backend": "onnxruntime"}}',
    ],
)
def test_a_stored_choice_that_makes_no_sense_is_as_good_as_none(bundle: Path, cache: Path, content: str) -> None:
    opened = Bundle.open(bundle)
    untuned = choose_execution(opened)
    Tuning(backend="openvino", streams=1, batch_size=7).store(opened, Precision.FP32, untuned.threads)
    [file] = cache.iterdir()
    assert json.loads(file.read_text())["of"]["precision"] == "fp32"
    file.write_text(content)
    assert Tuning.load(opened, Precision.FP32, untuned.threads) is None
    assert choose_execution(opened) == untuned


def a_candidate(backend: str, ratio: float, lowest: float, difference: float = 1e-6, **others: Any) -> Candidate:
    return Candidate(
        config=cpu_config(backend, **others),
        pairs_per_second=100 * ratio,
        ratio=ratio,
        lowest=lowest,
        highest=ratio + 0.1,
        max_abs_diff=difference,
        mean_abs_diff=difference,
    )


def test_the_fastest_must_be_faster_beyond_noise_and_have_the_same_scores() -> None:
    first = a_candidate("onnxruntime", 1, 1, 0)
    noise = a_candidate("openvino", 1.5, 0.9)
    wrong = a_candidate("openvino", 9, 8, difference=0.01)
    faster = a_candidate("openvino", 1.2, 1.1)
    assert fastest([first, noise]) is first
    assert fastest([first, wrong]) is first
    assert fastest([first, wrong, faster]) is faster
    coarse = a_candidate("openvino", 9, 8, difference=0.01, precision=Precision.INT8)
    assert fastest([first, coarse]) is coarse
    far = a_candidate("native", 9, 8, difference=0.2, precision=Precision.INT8)
    assert fastest([first, far]) is first
    judged = replace(far, judged=True)
    assert fastest([first, judged]) is judged
    assert fastest([first, replace(judged, mean_abs_diff=0.3)]) is first


def test_a_config_of_an_unknown_backend_does_not_open(bundle: Path) -> None:
    config = cpu_config("tensorrt")
    with pytest.raises(
        BackendError, match="no backend 'tensorrt' scores on a CPU; use one of onnxruntime, openvino, native"
    ):
        config.open(Bundle.open(bundle), threads=1, streams=1)


def test_every_installed_backend_is_a_candidate_once(bundle: Path) -> None:
    config = cpu_config(installed_backends()[0])
    found = candidates(Bundle.open(bundle), config)
    assert found[0] == config
    assert {candidate.backend for candidate in found} == set(installed_backends()) - {"native"}
    assert len({(each.backend, each.streams, each.batch_size) for each in found}) == len(found)
    assert {candidate.streams for candidate in found} == {1, 2}
