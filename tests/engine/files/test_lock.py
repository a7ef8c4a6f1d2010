"""A lock's file is created, or what keeps it from being created is raised at once."""

import os
from pathlib import Path
from typing import Any

import pytest

from crossrt.engine.files.lock import file_lock, open_own_file
from crossrt.engine.files.publish import published_directory


def test_a_file_that_its_holder_removes_meanwhile_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.write_text("")
    opened, flags_seen = os.open, []

    def removing(file: Any, flags: int, *others: Any, **options: Any) -> int:
        flags_seen.append(flags)
        if not flags & os.O_CREAT:
            path.unlink()
        return opened(file, flags, *others, **options)

    monkeypatch.setattr(os, "open", removing)
    os.close(open_own_file(path, os.O_RDWR | os.O_CREAT))
    assert [bool(flags & os.O_CREAT) for flags in flags_seen] == [True, False, True]
    assert path.is_file()


@pytest.mark.parametrize(("mode", "text"), [("w", "new"), ("a", "old, new"), ("r+", "new new")])
def test_an_existing_file_is_opened_as_open_does(tmp_path: Path, mode: str, text: str) -> None:
    (tmp_path / "file").write_text("old, " if mode == "a" else "old new")
    with open(tmp_path / "file", mode, opener=open_own_file) as file:
        file.write("new")
    assert (tmp_path / "file").read_text() == text


@pytest.mark.timeout(30)
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here, where nothing can be created")
def test_where_nothing_can_be_created_the_system_error_is_raised_at_once() -> None:
    """/proc says of a new file that it does not exist, though its folder does, as some network file systems do."""
    with pytest.raises(FileNotFoundError), file_lock(Path("/proc/nothing.lock")):
        pytest.fail("nothing is locked")
    with pytest.raises(FileNotFoundError), published_directory(Path("/proc/nothing")):
        pytest.fail("nothing is published")
