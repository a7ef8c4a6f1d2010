"""Keys of the cache use the hashes of the files themselves, computed once per file."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crossrt import CrossEncoder
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.manifest import BundleFile
from crossrt.engine.files import digests
from crossrt.engine.files.digests import content_sha256
from crossrt.engine.precision import Precision
from crossrt.engine.selection.tuning import Tuning


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed. All files count as old enough to be remembered."""
    monkeypatch.setenv("CROSSRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED_NS", -(1 << 62))
    whole = digests.sha256_of
    found: list[str] = []
    monkeypatch.setattr(digests, "sha256_of", lambda path: found.append(path.name) or whole(path))
    digests._remembered.cache_clear()
    return found


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, hashed: list[str]) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 1000)
    expected = hashlib.sha256(b"a" * 1000).hexdigest()
    assert content_sha256(file) == expected
    digests._remembered.cache_clear()  # as in another process
    assert content_sha256(file) == expected
    assert hashed == ["weights"]
    [entry] = (tmp_path / "cache/digests").iterdir()
    entry.write_bytes(b"\xff" + entry.read_bytes()[1:])
    digests._remembered.cache_clear()
    assert content_sha256(file) == expected
    assert hashed == ["weights"] * 2, "a damaged entry is as good as none"
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"b")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as somebody would who wants to hide the change
    assert content_sha256(file) == hashlib.sha256(b"b" + b"a" * 999).hexdigest()
    other = tmp_path / "other"
    shutil.copy2(file, other)
    content_sha256(other)
    assert hashed == ["weights"] * 3 + ["other"]


def test_a_file_that_changed_just_now_is_not_remembered(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", 60_000_000_000)
    (tmp_path / "weights").write_bytes(b"a")
    for time in (None, (1, 1)):  # also with the time of an older file, as `cp -p` gives it
        os.utime(tmp_path / "weights", time)
        hashed.clear()
        for _ in range(2):
            content_sha256(tmp_path / "weights")
        assert hashed == ["weights"] * 2


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(b"a")
    whole = digests.sha256_of

    def hash_and_change(path: Path) -> str:
        digest = whole(path)
        path.write_bytes(b"ab")
        return digest

    monkeypatch.setattr(digests, "sha256_of", hash_and_change)
    content_sha256(tmp_path / "weights")
    assert not (tmp_path / "cache").exists()


def test_the_store_of_hashes_is_bounded_and_may_be_missing(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "KEPT", 8)
    for number in range(20):
        (tmp_path / f"{number}").write_text(f"{number}")
        content_sha256(tmp_path / f"{number}")
        assert len(list((tmp_path / "cache/digests").iterdir())) <= 8
        for entry in (tmp_path / "cache/digests").iterdir():
            os.utime(entry, (entry.stat().st_mtime - 10,) * 2)
    digests._remembered.cache_clear()
    hashed.clear()
    for number in (19, 0):
        content_sha256(tmp_path / f"{number}")
    assert hashed == ["0"], "the oldest are deleted"
    monkeypatch.setenv("CROSSRT_CACHE", str(tmp_path / "0/cache"))
    digests._remembered.cache_clear()
    assert content_sha256(tmp_path / "1") == hashlib.sha256(b"1").hexdigest()


@pytest.fixture
def foreign(bundle: Path, make_bundle: object, make_checkpoint: object, tmp_path: Path) -> Path:
    """Another model of the same size with the manifest of `bundle`, whose hashes are wrong for it."""
    other = make_bundle(make_checkpoint(seed=5))  # type: ignore[operator]
    copy = tmp_path / "foreign"
    shutil.copytree(other, copy)
    shutil.copy(bundle / "manifest.json", copy / "manifest.json")
    for file in Bundle.open(bundle).manifest.files:
        if (copy / file.name).stat().st_size != file.size:
            shutil.copy(bundle / file.name, copy / file.name)
    Bundle.open(copy)  # all sizes agree
    return copy


def test_a_foreign_bundle_with_the_genuine_manifest_changes_no_score_of_the_genuine_one(
    bundle: Path, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: list[tuple[str, str]]
) -> None:
    pytest.importorskip("openvino")
    scores = {}
    for name, cache, path in (("right", "1", bundle), ("other", "2", foreign), ("poisoned", "2", bundle)):
        monkeypatch.setenv("CROSSRT_CACHE", str(tmp_path / cache))
        with CrossEncoder(path, backend="openvino") as model:
            scores[name] = model.predict(pairs)
    assert np.abs(scores["other"] - scores["right"]).max() > 0.1, "it is another model"
    np.testing.assert_array_equal(scores["poisoned"], scores["right"])


def test_a_tuning_and_a_prepared_store_of_a_foreign_bundle_are_not_the_genuine_ones(
    bundle: Path, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRT_CACHE", str(tmp_path / "cache"))
    genuine, other = Bundle.open(bundle), Bundle.open(foreign)
    Tuning(backend="openvino", streams=1, batch_size=7).store(other, Precision.FP32, 1)
    assert Tuning.load(other, Precision.FP32, 1) is not None
    assert Tuning.load(genuine, Precision.FP32, 1) is None
    content = other.tokenizer_file.read_bytes()
    other.tokenizer_file.write_bytes(content.replace(b'"river"', b'"rivet"'))
    assert other.sha256("tokenizer.json") == genuine.sha256("tokenizer.json"), "as it claims"
    assert other.tokenizer_sha256 != genuine.tokenizer_sha256


def test_a_tuning_is_of_the_weights_beside_a_graph_too(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRT_CACHE", str(tmp_path / "cache"))
    opened = Bundle.open(shutil.copytree(bundle, tmp_path / "model"))
    beside = BundleFile(name="onnx/model.onnx_data", size=1, sha256="0" * 64)
    large = replace(opened, manifest=replace(opened.manifest, files=(*opened.manifest.files, beside)))
    (tmp_path / "model" / beside.name).write_bytes(b"a")
    Tuning(backend="openvino", streams=1, batch_size=7).store(large, Precision.FP32, 1)
    assert Tuning.load(large, Precision.FP32, 1) is not None
    (tmp_path / "model" / beside.name).write_bytes(b"b")
    assert Tuning.load(large, Precision.FP32, 1) is None


def test_who_never_tuned_waits_for_no_hash(bundle: Path, hashed: list[str]) -> None:
    assert Tuning.load(Bundle.open(bundle), Precision.FP32, 1) is None
    assert hashed == []
