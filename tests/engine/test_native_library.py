"""A compiled library is found under the name of an extension, as pip compiles it, and under that of a wheel's library. One that
cannot be used is refused in words."""

import ast
import logging
import platform
import re
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from crossrt.engine import native_library as module
from crossrt.engine.errors import BackendError
from crossrt.engine.hardware.cpus import INTERFACE
from crossrt.engine.native_functions import FUNCTIONS
from crossrt.engine.native_library import ELF_64, WHEEL_SUFFIXES, load_library, native_library, open_library
from tests.conftest import REPOSITORY

SOURCES = REPOSITORY / "engine/kernels/native"


@pytest.mark.parametrize("suffix", [*EXTENSION_SUFFIXES, *WHEEL_SUFFIXES])
def test_both_names_are_found(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    (tmp_path / "native_avx2_vnni.so").touch()  # another library, whose name begins alike
    assert native_library("native_avx2") is None
    (tmp_path / f"native_avx2{suffix}").touch()
    assert native_library("native_avx2") == tmp_path / f"native_avx2{suffix}"


def test_what_was_compiled_here_comes_before_a_wheels_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    for name in ("native_avx2.dylib", f"native_avx2{EXTENSION_SUFFIXES[0]}"):
        (tmp_path / name).touch()
    assert native_library("native_avx2") == tmp_path / f"native_avx2{EXTENSION_SUFFIXES[0]}"


@pytest.fixture
def library() -> bytes:
    """The content of a library that can be loaded."""
    file = native_library("native_processor")
    if file is None or not (content := file.read_bytes()).startswith(ELF_64):
        pytest.skip("this installation has no library for 64-bit Linux")
    return content


def of_another_machine(content: bytes) -> bytes:
    """With the other architecture's number in the header of an ELF file."""
    number = 62 if platform.machine() == "aarch64" else 183
    return content[:18] + number.to_bytes(2, "little") + content[20:]


FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "damaged": (lambda content: bytes(4096) + content[4096:], "cannot be loaded (invalid ELF header)"),
    "empty": (lambda content: b"", "cannot be loaded (file too short)"),
    "half of it": (
        lambda content: content[: len(content) // 2],
        "cannot be loaded (it is shorter than its header says)",
    ),
    "all but the end": (lambda content: content[:-1], "cannot be loaded (it is shorter than its header says)"),
    "of another architecture": (of_another_machine, "cannot be loaded (it is for "),
    "of a function less": (
        lambda content: content.replace(b"crossrt_processor_instructions", b"crossrt_processor_instruments!"),
        "lacks the function crossrt_processor_instructions",
    ),
}
"""What happened to a library, and what is said of it."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_library_that_cannot_be_used_is_refused_in_words(
    fault: str, library: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change, words = FAULTS[fault]
    file = tmp_path / "native_processor.so"
    file.write_bytes(library)
    assert open_library(file, "crossrt_processor_interface", INTERFACE)
    broken = tmp_path / "broken.so"
    broken.write_bytes(change(library))
    with pytest.raises(BackendError, match=re.escape(f"{broken} {words}")) as error:
        open_library(broken, "crossrt_processor_interface", INTERFACE)
    assert str(error.value).endswith("; install crossrt again")
    with caplog.at_level(logging.WARNING, "crossrt"):
        assert load_library(broken, "crossrt_processor_interface", INTERFACE) is None
    assert caplog.messages == [f"{error.value}. It is not used"]


@pytest.mark.parametrize(
    ("function", "interface", "found"),
    [("crossrt_processor_interface", 99, str(INTERFACE)), ("crossrt_interface", 1, "none")],
)
def test_a_library_of_another_version_is_refused_in_words(
    function: str, interface: int, found: str, library: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "native_processor.so"
    file.write_bytes(library)
    words = (
        f"was compiled for another version of crossrt (interface {found}, expected {interface}); install crossrt again"
    )
    with pytest.raises(BackendError, match=re.escape(f"{file} {words}")):
        open_library(file, function, interface)


def test_the_table_has_every_function_that_is_called_and_every_one_that_is_compiled() -> None:
    listed = {name for interface, functions in FUNCTIONS.items() for name in (interface, *functions)}
    called = {
        node.attr
        for file in (REPOSITORY / "engine").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith("crossrt_")
    }
    assert called == listed - FUNCTIONS.keys()
    sources = "".join((SOURCES / name).read_text() for name in ("c_api.h", "wordpiece.cpp", "processor.cpp"))
    exported = sources.split('extern "C" {')[1:]
    compiled = {name for part in exported for name in re.findall(r"^[\w*]+ \*?(crossrt_\w+)\(", part, re.MULTILINE)}
    assert compiled == listed
