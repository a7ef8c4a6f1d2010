"""The cache of compiled models: whatever is wrong with it, the model still opens."""

import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt import CrossEncoder
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.compiled import KEPT, CompiledModels
from crossrt.engine.files.cache import VARIABLE
from crossrt.engine.precision import Precision
from tests.engine.samples import batch_of

KEY = {"model": "a", "streams": 2}
CONTENT = bytes(range(256)) * 100


@pytest.fixture
def kept(tmp_path: Path) -> CompiledModels:
    return CompiledModels(tmp_path / "compiled")


def test_what_was_stored_is_loaded_under_its_key_alone(kept: CompiledModels) -> None:
    assert kept.load(KEY) is None
    kept.store(KEY, CONTENT)
    assert bytes(kept.load(KEY) or b"") == CONTENT
    assert kept.load(KEY | {"streams": 1}) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: content + b"x",
        lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
        lambda content: bytes([content[0] ^ 1]) + content[1:],
    ],
)
def test_a_damaged_file_is_not_used_and_is_replaced(
    kept: CompiledModels, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kept.store(KEY, CONTENT)
    [file] = kept.folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert kept.load(KEY) is None
    assert "is not used" in caplog.text
    kept.store(KEY, CONTENT)
    assert bytes(kept.load(KEY) or b"") == CONTENT


def test_a_folder_that_cannot_be_made_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    kept = CompiledModels(tmp_path / "file" / "compiled")
    with caplog.at_level(logging.INFO):
        kept.store(KEY, CONTENT)
    assert "is not kept" in caplog.text
    assert kept.load(KEY) is None


def test_a_full_disk_leaves_nothing_behind(
    kept: CompiledModels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept.store(KEY, CONTENT)

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with caplog.at_level(logging.INFO):
        kept.store(KEY, b"other")
    assert "No space left" in caplog.text
    assert len(list(kept.folder.iterdir())) == 1
    assert bytes(kept.load(KEY) or b"") == CONTENT


def test_the_one_used_longest_ago_goes_first(kept: CompiledModels) -> None:
    for number in range(KEPT):
        kept.store({"number": number}, CONTENT)
        os.utime(kept._file({"number": number}), (number, number))
    assert kept.load({"number": 0}) is not None
    kept.store({"number": KEPT}, CONTENT)
    assert len(list(kept.folder.iterdir())) == KEPT
    assert kept.load({"number": 0}) is not None
    assert kept.load({"number": 1}) is None


def test_many_writers_of_one_key(kept: CompiledModels) -> None:
    found: list[bytes] = []

    def work() -> None:
        for _ in range(20):
            kept.store(KEY, CONTENT)
            found.append(bytes(kept.load(KEY) or CONTENT))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {CONTENT}


def test_openvino_opens_what_it_compiled_before(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    openvino = pytest.importorskip("openvino")
    from crossrt.engine.backends.openvino import OpenVinoSession

    monkeypatch.setenv(VARIABLE, str(tmp_path))
    compiles: list[int] = []
    compile_model = openvino.Core.compile_model

    def counting(*arguments: Any) -> Any:
        compiles.append(1)
        return compile_model(*arguments)

    monkeypatch.setattr(openvino.Core, "compile_model", counting)

    def scores(streams: int = 2) -> Any:
        session = OpenVinoSession(Bundle.open(bundle), precision=Precision.FP32, threads=1, streams=streams)
        try:
            return session.run(batch_of(3, 9))
        finally:
            session.close()

    first = scores()
    assert np.array_equal(scores(), first)
    assert len(compiles) == 1
    scores(streams=1)
    assert len(compiles) == 2, "other properties, another compilation"


def test_what_openvino_cannot_open_is_compiled_again(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """This is OpenVINO's own refusal. On bytes that it did not write it crashes, so their sha256 is checked first."""
    openvino = pytest.importorskip("openvino")
    from crossrt.engine.backends.openvino import OpenVinoSession

    def refuse(*_: Any) -> None:
        raise RuntimeError("made by another build")

    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(openvino.Core, "import_model", refuse)
    for _ in range(2):
        session = OpenVinoSession(Bundle.open(bundle), precision=Precision.FP32, threads=1, streams=1)
        assert session.run(batch_of(3, 9)).shape == (3, 1)
        session.close()
    assert "compiles it again" in caplog.text


@pytest.mark.parametrize("cached", [True, False])
def test_openvino_opens_a_large_bundle_in_the_hubs_cache(
    checkpoint: Path, make_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    """All files of such a bundle are symbolic links, and the weights of a large graph are in a file beside it."""
    pytest.importorskip("openvino")
    monkeypatch.setattr("crossrt.export.graph.writer.EXTERNAL_DATA_ABOVE", 1000)
    bundle, snapshot = make_bundle(checkpoint), tmp_path / "models--a--b/snapshots/0123"
    for file in bundle.rglob("*.*"):
        link = snapshot / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    if cached:
        monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    else:
        monkeypatch.setattr("crossrt.engine.files.cache.cache_root", lambda: None)
    scores = {}
    for path in (snapshot, bundle):  # the second may be what the first has compiled
        with CrossEncoder(path, backend="openvino") as model:
            scores[path] = model.predict([("a river", "the water of the river")])
    np.testing.assert_array_equal(*scores.values())
    assert [*(tmp_path / "cache").glob("linked/*")] == []
