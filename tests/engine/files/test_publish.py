"""Files and directories are written atomically, at the path that the user gave."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossrt.engine.errors import BundleError, OptionError
from crossrt.engine.files import lock, publish
from crossrt.engine.files.lock import file_lock
from crossrt.engine.files.publish import (
    clear_abandoned,
    link_or_copy,
    published_directory,
    published_file,
    put_in_place,
    replaced,
    replaced_text,
)

ROOT = os.geteuid() == 0 if hasattr(os, "geteuid") else False


def write(out: Path, text: str = "new\n") -> None:
    with published_file(out) as file:
        file.write(text)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- what `--out` may name


@pytest.mark.skipif(not ROOT, reason="only root can make a device")
def test_a_device_is_written_into_and_stays_a_device(tmp_path: Path) -> None:
    null, full = tmp_path / "null", tmp_path / "full"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(full, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        null.write_bytes(b"")
    except PermissionError:
        pytest.skip("this container may not make or open devices")
    write(null)
    assert null.stat().st_rdev == os.makedev(1, 3)
    with pytest.raises(OSError, match="No space left on device") as failed:
        write(full)
    assert failed.value.filename == str(full)
    assert names(tmp_path) == {"null", "full"}


def test_a_full_device_is_named() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left on device") as failed:
        write(Path("/dev/full"))
    assert (failed.value.errno, failed.value.filename) == (errno.ENOSPC, "/dev/full")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_gets_the_text_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe, "a\nb\n")
    reader.join()
    assert read == ["a\nb\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target = tmp_path / "there/run"
    target.write_text("old")
    (tmp_path / "link").symlink_to("there/run")
    (tmp_path / "link of link").symlink_to("link")
    write(tmp_path / "link of link")
    assert target.read_text() == "new\n"
    (tmp_path / "dangling").symlink_to("there/made")
    write(tmp_path / "dangling")
    assert (tmp_path / "there/made").read_text() == "new\n"
    assert all((tmp_path / name).is_symlink() for name in ("link", "link of link", "dangling"))
    (tmp_path / "lost").symlink_to("nowhere/made")
    with pytest.raises(OptionError, match="in a directory that does not exist"):
        write(tmp_path / "lost")
    with pytest.raises(OptionError, match="is a directory"):
        write(tmp_path / "there")
    (tmp_path / "bundle").symlink_to("there/bundle")
    with published_directory(tmp_path / "bundle") as partial:
        (partial / "manifest.json").write_text("{}")
    assert (tmp_path / "bundle").is_symlink()
    with published_directory(tmp_path / "bundle", force=True) as partial:
        (partial / "manifest.json").write_text("again")
    assert (tmp_path / "there/bundle/manifest.json").read_text() == "again"
    assert names(tmp_path / "there") == {"run", "made", "bundle"}


@pytest.mark.parametrize("out", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_written_where_it_is(tmp_path: Path, out: str) -> None:
    if out != "-" and not Path(out).exists():
        pytest.skip(f"no {out} here")
    program = (
        "import sys; from pathlib import Path; from crossrt.engine.files.publish import published_file\n"
        "print('before')\n"
        "with published_file(Path(sys.argv[1])) as file: file.write('ä\\n')\n"
        "print('after')"
    )
    command = [sys.executable, "-c", program, out]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": ""}
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout
    assert said.decode() == "before\nä\nafter\n"
    file = tmp_path / "log"
    file.write_text("earlier\n")
    with file.open("a") as appended:
        subprocess.run(command, stdout=appended, check=True, env=environment)
    assert file.read_text(encoding="utf-8") == "earlier\nbefore\nä\nafter\n"
    assert names(tmp_path) == {"log"}


@pytest.mark.parametrize("name", ["1", "2"])
def test_a_file_whose_name_is_a_number_is_no_descriptor(tmp_path: Path, name: str) -> None:
    with published_file(tmp_path / name) as file:
        file.write("text")
    assert (tmp_path / name).read_text() == "text"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange directories")
def test_a_directory_is_replaced_in_one_step(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    put_in_place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old/name").read_text() == "new"
    assert (tmp_path / "new/name").read_text() == "old", "both have exchanged their names"


@pytest.mark.parametrize("exchanging", [True, False])
def test_a_replaced_directory_keeps_its_mode_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanging: bool
) -> None:
    if not exchanging:  # as on other systems than Linux
        monkeypatch.setattr(publish, "_exchanged", lambda one, other: False)
    for text in ("old", "new"):
        with published_directory(tmp_path / "bundle", force=True) as partial:
            (partial / "manifest.json").write_text(text)
        if text == "old":
            (tmp_path / "bundle").chmod(0o750)
    assert (tmp_path / "bundle/manifest.json").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "bundle").stat().st_mode) == 0o750
    assert names(tmp_path) == {"bundle"}


def test_a_bundle_that_another_process_publishes_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is already there"), published_directory(tmp_path / "bundle") as partial:
        (partial / "manifest.json").write_text("second")
        with published_directory(tmp_path / "bundle") as other:
            (other / "manifest.json").write_text("first")
    assert (tmp_path / "bundle/manifest.json").read_text() == "first"
    assert names(tmp_path) == {"bundle"}


def test_where_there_are_no_locks_nothing_is_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_locks(handle: int, *, wait: bool) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(lock, "_lock", without_locks)
    with replaced_text(tmp_path / "file") as file:
        file.write("whole")
        begun = names(tmp_path)
        clear_abandoned(tmp_path)
        assert {name for name in begun if name.endswith(".partial")} <= names(tmp_path)
    assert names(tmp_path) == {"file"}


def test_a_new_file_has_the_mode_that_open_gives_and_a_replaced_one_keeps_its_own(tmp_path: Path) -> None:
    with (tmp_path / "opened").open("w"):
        pass
    write(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "opened").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    if ROOT:
        os.chown(tmp_path / "new", 12345, 12346)
    write(tmp_path / "new")
    found = (tmp_path / "new").stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    if ROOT:
        assert (found.st_uid, found.st_gid) == (12345, 12346)
    (tmp_path / "made").mkdir()
    with published_directory(tmp_path / "bundle"):
        pass
    assert (tmp_path / "bundle").stat().st_mode == (tmp_path / "made").stat().st_mode


def test_the_process_wide_umask_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("other threads see it"))
    write(tmp_path / "file")
    with published_directory(tmp_path / "bundle"):
        pass


# -- what is in the way


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = ROOT and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tiny_disk: Path) -> None:
    out = tiny_disk / "run"
    write(out, "old")
    with pytest.raises(OSError, match="No space left on device") as failed:
        write(out, "x" * 1_000_000)
    assert failed.value.filename == str(out)
    with pytest.raises(OSError, match="No space left") as failed, published_directory(tiny_disk / "bundle") as partial:
        (partial / "model").write_bytes(b"x" * 1_000_000)
    assert failed.value.filename == str(tiny_disk / "bundle")
    assert names(tiny_disk) == {"run"}
    assert out.read_text() == "old"


def test_a_place_that_cannot_be_written_is_named_and_not_its_hidden_sibling(
    tmp_path: Path, as_another_user: list[str]
) -> None:
    out = tmp_path / "out"
    program = f"""
from pathlib import Path
from crossrt.engine.files.publish import published_directory, published_file
for publish in (published_file, published_directory):
    try:
        with publish(Path({str(out)!r})): pass
    except PermissionError as error:
        print(error.filename)
"""
    said = subprocess.run(
        [*as_another_user, sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert said.stdout.splitlines() == [str(out)] * 2, said.stderr


# -- what killed processes leave

WRITER = """
import sys, time
from pathlib import Path
from crossrt.engine.files.publish import published_directory, replaced
folder = Path(sys.argv[1])
with replaced(folder / "file") as file, published_directory(folder / "bundle") as partial:
    file.write(b"half"), file.flush()
    (partial / "half").write_text("")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_the_next_writer_clears_what_a_killed_one_left_and_nothing_that_is_being_written(tmp_path: Path) -> None:
    # The process id means nothing here, as between containers; only the lock counts.
    kept = {".store.partial", ".file.other.partial", ".file.0123456789abcdef.partial.txt"}
    for name in kept:
        (tmp_path / name).write_text("of somebody else")
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"writing\n"
        begun = names(tmp_path) - kept
        assert len(begun) == 4, "a file and a directory, and a lock of each"
        clear_abandoned(tmp_path)
        assert names(tmp_path) == begun | kept
        child.send_signal(signal.SIGKILL)
    assert names(tmp_path) == begun | kept
    with replaced_text(tmp_path / "file") as file:
        file.write("whole")
    assert not any(name.startswith(".file.") for name in names(tmp_path) - kept)
    with published_directory(tmp_path / "bundle"):
        pass
    assert names(tmp_path) == kept | {"file", "bundle"}


@pytest.mark.parametrize("linking", [True, False])
def test_a_file_is_linked_or_else_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linking: bool) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another file system")

    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    if not linking:
        monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "link", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "text"
    assert not (tmp_path / "target").is_symlink()
    assert (tmp_path / "target").samefile(tmp_path / "file") is linking


def test_a_lock_that_a_clearing_process_took_first_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process found the lock's file between its creation and its locking."""
    lock_at_once, taken = lock._lock, []

    def lock_late(handle: int, *, wait: bool) -> None:
        if not taken:
            [path] = tmp_path.iterdir()
            taken.append((path, os.open(path, os.O_RDWR)))
            lock_at_once(taken[0][1], wait=False)
        elif wait:
            path, other = taken[0]
            path.unlink()
            os.close(other)
        lock_at_once(handle, wait=wait)

    monkeypatch.setattr(lock, "_lock", lock_late)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new\n"
    assert names(tmp_path) == {"file"}


def test_an_internal_file_replaces_a_link_and_leaves_what_it_points_at(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "result.json").symlink_to("victim")
    with replaced(tmp_path / "result.json") as file:
        file.write(b"{}")
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "result.json").is_symlink()


def test_a_lock_is_waited_for_and_leaves_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def second() -> None:
        with file_lock(tmp_path / "lock", waiting="waiting for it"):
            order.append("second")

    with file_lock(tmp_path / "lock"):
        with pytest.raises(BlockingIOError), file_lock(tmp_path / "lock"):
            pass
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert capfd.readouterr().err == "waiting for it\n"
    assert names(tmp_path) == set()


def test_many_processes_hold_a_lock_one_at_a_time(tmp_path: Path) -> None:
    program = """
import os, sys, time
from pathlib import Path
from crossrt.engine.files.lock import file_lock
folder = Path(sys.argv[1])
for _ in range(30):
    with file_lock(folder / "lock", waiting="waiting"):
        os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
        time.sleep(0.001)
        (folder / "inside").unlink()
"""
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(4)
    ]
    said = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0] * 4, said
    assert names(tmp_path) == set()


# -- names that others can guess


def test_a_lock_is_no_way_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "lock").symlink_to("victim")
    with pytest.raises(OSError, match="is a symbolic link"), file_lock(tmp_path / "lock"):
        pass
    (tmp_path / "dangling").symlink_to("made")
    with pytest.raises(OSError, match="is a symbolic link"), file_lock(tmp_path / "dangling"):
        pass
    if not hasattr(os, "mkfifo"):
        return
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is not a regular file"), file_lock(tmp_path / "pipe"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"
    assert names(tmp_path) == {"victim", "lock", "dangling", "pipe"}


@pytest.mark.skipif(not ROOT, reason="only root can make another user's file")
def test_another_users_lock_is_refused_unless_the_folder_is_theirs(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("theirs")
    os.chown(lock, 12345, 12345)
    with pytest.raises(PermissionError, match=r"belongs to another user \(uid 12345\)"), file_lock(lock):
        pass
    assert lock.read_text() == "theirs"
    os.chown(tmp_path, 12345, 12345)
    with file_lock(lock):
        pass
