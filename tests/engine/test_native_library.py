"""A compiled library is found under the name of an extension, as pip compiles it, and under that of a wheel's library."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from crossrt.engine import native_library as module
from crossrt.engine.native_library import WHEEL_SUFFIXES, native_library


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
