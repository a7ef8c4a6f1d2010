"""Files are read whatever they are packed in, several of them in their order, and standard input as a file."""

import bz2
import gzip
import io
import json
import lzma
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest
from backports import zstd
from pyarrow import parquet

from crossrt.engine.errors import BackendError, DataFileError
from crossrt.engine.files import source as source_file
from crossrt.engine.files.source import Source
from crossrt.engine.files.texts import read_texts

LINES = b"\xef\xbb\xbf1\tthe river\r\n\r\n2\tthe \xc3\xa9lys\xc3\xa9e\r\n3\tlast"
TEXTS = {"1": "the river", "2": "the élysée", "3": "last"}
Pack = Callable[[bytes], bytes]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_the_first_bytes_tell_how_a_file_is_packed(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "p.tsv"
    path.write_bytes(pack(LINES))
    assert read_texts(path) == TEXTS
    assert Source.of(path).plain == (pack is bytes)
    for source in (Source.of(path), Source.of(path).unpacked()):
        lines = [(line.number, line.text) for line in source.lines()]
        assert lines == [(1, "1\tthe river"), (3, "2\tthe élysée"), (4, "3\tlast")]


@pytest.mark.parametrize("level", range(1, 10))
def test_bzip2_of_every_block_size_is_unpacked(tmp_path: Path, level: int) -> None:
    path = tmp_path / "p"
    path.write_bytes(bz2.compress(LINES, level))
    assert read_texts(path) == TEXTS
    path.write_bytes(bz2.compress(b"", level))
    with pytest.raises(DataFileError, match="p is empty"):
        read_texts(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_what_is_cut_short_or_damaged_is_refused(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "p.tsv"
    packed = pack(LINES)
    for content in (packed[:-3], packed[:20] + b"\xff" * 40):
        path.write_bytes(content)
        with pytest.raises(DataFileError, match=r"p\.tsv is damaged or cut short \(.+\); get it again"):
            list(Source.of(path).lines())


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress, bz2.compress, lzma.compress])
def test_a_file_of_several_compressed_parts_is_read_whole(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "p"
    path.write_bytes(pack(b"1\ta\n") + pack(b"2\tb\n"))
    assert read_texts(path) == {"1": "a", "2": "b"}


def test_several_files_and_patterns_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.tsv").write_bytes(b"3\tc")
    (tmp_path / "a.tsv").write_bytes(b"1\ta")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"id": "2", "contents": "b"}\n'))
    source = Source.of([str(tmp_path / "*.tsv"), tmp_path / "c.jsonl.gz"])
    assert list(read_texts(source).items()) == [("1", "a"), ("3", "c"), ("2", "b")]
    assert list(read_texts(source.unpacked()).items()) == [("1", "a"), ("3", "c"), ("2", "b")]
    assert source.short_name == "a.tsv and 2 more"
    (tmp_path / "d.tsv").write_bytes(b"4\td\nno tab")
    with pytest.raises(DataFileError, match=r"d\.tsv, line 2: expected `id <tab> text`"):
        read_texts([tmp_path / "a.tsv", tmp_path / "d.tsv"])
    with pytest.raises(DataFileError, match=r"no file matches .*e\*"):
        Source.of(str(tmp_path / "e*"))
    with pytest.raises(DataFileError, match="no file is given"):
        Source.of([])


def test_files_that_each_begin_with_a_mark_are_read_in_folders_too(tmp_path: Path) -> None:
    for place, text in (("a", "1\tone"), ("b/c", "2\ttwo")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "p.tsv").write_text(text, encoding="utf-8-sig")
    source = Source.of(str(tmp_path / "**/*.tsv"))
    for each in (source, source.unpacked()):
        assert read_texts(each) == {"1": "one", "2": "two"}


def test_the_time_of_several_files_is_that_of_the_newest(tmp_path: Path) -> None:
    for name, time in (("a", 7), ("b", 9), ("c", 8)):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (time, time))
    assert Source.of(str(tmp_path / "*")).size_and_time() == (3, 9_000_000_000)


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a[1].tsv").write_bytes(b"1\ta")
    (tmp_path / "a1.tsv").write_bytes(b"2\tb")
    assert read_texts(str(tmp_path / "a[1].tsv")) == {"1": "a"}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input_is_read_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Pack) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(pack(LINES))))
    source = Source.of("-")
    assert read_texts(source) == read_texts(source) == TEXTS
    assert str(source) == source.short_name == "standard input"
    with pytest.raises(DataFileError, match="cannot be joined"):
        Source.of(["-", tmp_path])


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe_is_read_from_its_beginning_and_as_often_as_a_file(tmp_path: Path, pack: Pack) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "z.tsv").write_bytes(b"z\tlast")
    texts = {str(number): f"passage {number}" for number in range(20_000)}  # many times a pipe's and a reader's buffer
    content = pack("".join(f"{name}\t{text}\n" for name, text in texts.items()).encode())
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit((tmp_path / "pipe").write_bytes, content)
        source = Source.of([tmp_path / "pipe", tmp_path / "z.tsv"])
        assert written.result() == len(content)
    assert read_texts(source) == read_texts(source) == texts | {"z": "last"}
    assert str(source) == f"{tmp_path / 'pipe'} and 1 more"
    assert [line.where for line in source.lines()][-2:] == [
        f"{tmp_path / 'pipe'}, line 20000",
        f"{tmp_path / 'z.tsv'}, line 1",
    ]


def test_the_same_files_have_the_same_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\ta")
    (tmp_path / "b").write_bytes(b"2\tb")
    assert Source.of(tmp_path / "a").sha256() != Source.of(tmp_path / "b").sha256()
    both = Source.of([tmp_path / "a", tmp_path / "b"]).sha256()
    assert both == Source.of(str(tmp_path / "?")).sha256()
    assert both != Source.of([tmp_path / "b", tmp_path / "a"]).sha256()


def test_a_parquet_tables_rows_are_objects(tmp_path: Path) -> None:
    columns = {
        "_id": [1, 2],
        "title": ["Élysée", None],
        "text": ["a palace\nin Paris", "the river"],
        "vector": [[0.5, 1.0], [2.0, 3.0]],
        "seen": pyarrow.array([0, 1], type=pyarrow.timestamp("s")),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet", row_group_size=1)
    source = Source.of(tmp_path / "p.parquet")
    assert read_texts(source) == {"1": "Élysée a palace\nin Paris", "2": "the river"}
    assert not source.plain
    assert [json.loads(line.text)["_id"] for line in source.unpacked().lines()] == [1, 2]
    cut = (tmp_path / "p.parquet").read_bytes()[:-20]
    (tmp_path / "p.parquet").write_bytes(cut)
    with pytest.raises(DataFileError, match=r"p\.parquet is no Parquet file that can be read"):
        read_texts(tmp_path / "p.parquet")


def test_bytes_in_a_parquet_table_are_texts(tmp_path: Path) -> None:
    columns = {"id": [b"1", b"2"], "text": ["the élysée".encode(), b"the river"], "image": [b"\xff\xd8", b"\x89PNG"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet")
    assert read_texts(tmp_path / "p.parquet") == {"1": "the élysée", "2": "the river"}
    parquet.write_table(pyarrow.table(columns | {"text": [b"\xff", b"the river"]}), tmp_path / "p.parquet")
    with pytest.raises(DataFileError, match=r"p\.parquet, line 1: expected .* with the fields id, text, image"):
        read_texts(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("content", "missing", "extra"),
    [(zstd.compress(LINES), "backports.zstd", "zstd"), (b"PAR1\x15", "pyarrow", "parquet")],
)
def test_what_a_missing_package_would_read_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, missing: str, extra: str
) -> None:
    (tmp_path / "p").write_bytes(content)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BackendError, match=rf'needs {missing}: pip install "crossrt\[{extra}\]"'):
        read_texts(tmp_path / "p")


def test_a_plain_source_is_read_on_from_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(LINES)
    lines = list(Source.of(path).lines())
    for place, line in enumerate(lines):
        assert list(Source.of(path).lines(after=line.number, position=line.end)) == lines[place + 1 :]
    assert list(Source.of(path).lines_in([(0, len(LINES), 1)])) == lines
    pieces = [(line.position, line.end, line.number) for line in reversed(lines)]
    assert list(Source.of(path).lines_in(pieces)) == lines[::-1]


def test_a_temporary_copy_lives_as_long_as_its_source(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(gzip.compress(LINES))
    unpacked = Source.of(tmp_path / "p").unpacked()
    [copy] = unpacked.files
    assert copy.exists()
    held = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    assert copy.resolve() not in held, "Windows would refuse to open it again"
    del unpacked
    assert not copy.exists()
    assert source_file.Source.of(tmp_path / "p").files == (tmp_path / "p",)
