"""Files of a job in a directory and behind a URL, a store that is fetched once, and whose parts a folder holds."""

import dataclasses
import os
import resource
import shutil
import signal
import threading
from pathlib import Path

import pytest

from crossrt.distributed import fetched as module
from crossrt.distributed.fetched import fetched
from crossrt.distributed.folder import Folder
from crossrt.distributed.identity import Identity, bundle_digest, store_digest
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.errors import BackendError, DataFileError, StoreError
from crossrt.engine.files.cache import VARIABLE
from crossrt.engine.files.lock import file_lock
from crossrt.engine.store.passage_store import DESCRIPTION, PassageStore


@pytest.fixture(params=["", "file://", "memory://"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param:
        pytest.importorskip("fsspec")
    return Folder(f"{request.param}{tmp_path}/folder")


def test_files_are_written_read_listed_and_removed(folder: Folder) -> None:
    folder.make()
    assert folder.names("parts") == set()
    with pytest.raises(FileNotFoundError):
        folder.read("parts/a")
    folder.write("parts/a", b"one")
    folder.write("parts/a", b"two")
    folder.write("parts/b", b"")
    assert folder.read("parts/a") == b"two"
    assert folder.names("parts") == {"a", "b"}
    assert folder.exists("parts/b")
    assert not folder.exists("parts/c")
    folder.remove("parts")
    folder.remove("parts")
    assert folder.names("parts") == set()


def test_no_file_is_looked_for_among_the_others_when_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(str(tmp_path))
    listed: list[str] = []
    for listing in ("listdir", "scandir"):
        actual = getattr(os, listing)
        monkeypatch.setattr(os, listing, lambda path=".", actual=actual: listed.append(path) or actual(path))
    for number in range(5):
        folder.write(f"parts/{number}", b"one")
    assert listed == []


def test_what_killed_writers_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("parts/a", b"one")
    left, begun = (tmp_path / "parts" / f".b.{digit * 16}.partial" for digit in "12")
    for partial in (left, begun):
        partial.write_bytes(b"half")
    with file_lock(begun.with_suffix(".lock")):
        folder.clear_abandoned("parts")
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"a", begun.name}
    folder.clear_abandoned("nothing")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_file_that_is_not_written_whole_does_not_appear(scheme: str, tmp_path: Path) -> None:
    if scheme:
        pytest.importorskip("fsspec")
    folder = Folder(f"{scheme}{tmp_path}/my folder")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))  # as if the disk were full
        with pytest.raises(OSError, match="File too large"):
            folder.write("parts/a", b"x" * (2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert folder.names("parts") == set()
    assert folder.local == tmp_path / "my folder"


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(BackendError, match="nowhere://x"):
        Folder("nowhere://x")


IDENTITY = Identity(bundle="tiny@1", store="2", options={"precision": None, "exact": None}, block=10, cut=5)


def test_a_folder_takes_parts_of_one_job_only(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    dataclasses.replace(IDENTITY, block=99).claim(folder)  # there are no parts yet
    IDENTITY.claim(folder)
    folder.write("parts/one", b"")
    IDENTITY.claim(folder)
    other = dataclasses.replace(IDENTITY, bundle="tiny@2", options={"precision": "int8", "exact": None})
    with pytest.raises(DataFileError) as refused:
        other.claim(folder)
    assert "holds parts of another job: precision was None and is int8; bundle was tiny@1 and is tiny@2" in str(
        refused.value
    )
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(DataFileError, match=r"job\.json cannot be used"):
        IDENTITY.claim(folder)
    (tmp_path / "job.json").unlink()
    with pytest.raises(DataFileError, match=r"has parts and no job\.json"):
        IDENTITY.claim(folder)


def test_the_digest_of_a_bundle_is_that_of_its_files(demo_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(demo_bundle, tmp_path / "copy")
    assert bundle_digest(Bundle.open(copy)) == bundle_digest(Bundle.open(demo_bundle))
    file = copy / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"the", b"teh", 1))
    assert bundle_digest(Bundle.open(copy)) != bundle_digest(Bundle.open(demo_bundle))


def test_stores_have_digests_of_their_own() -> None:
    assert store_digest(b"one") != store_digest(b"another")


def test_a_store_behind_a_url_is_copied_once(demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    copies: list[Path] = []
    copy = module._copy

    def counted(system: object, path: str, target: Path, place: str) -> None:
        copies.append(target)
        copy(system, path, target, place)

    monkeypatch.setattr(module, "_copy", counted)
    found: list[Path] = []
    url = f"file://{demo_store}"
    threads = [threading.Thread(target=lambda: found.append(fetched(url, DESCRIPTION))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found)), len(copies)) == (4, 1, 1)
    assert len(PassageStore(found[0])) == len(PassageStore(demo_store))
    assert fetched(str(demo_store), DESCRIPTION) == demo_store
    with pytest.raises(StoreError, match=r"file:///nowhere/store\.json cannot be read"):
        fetched("file:///nowhere", DESCRIPTION)
