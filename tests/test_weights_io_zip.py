"""ZIP archives: what zipfile, NumPy and PyTorch write is read as zipfile reads it, late and checked; what is written, zipfile reads."""

from __future__ import annotations

import io
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import build_zip

import weights_io
from weights_io import zip_archive
from weights_io.limits import Limits
from weights_io.source import Source

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "validation" / "recorded" / "torch_files"
GIB = 1 << 30


def _open(path: Path, content: bytes | None = None, mode: str = "strict") -> zip_archive.Archive:
    if content is not None:
        path.write_bytes(content)
    return zip_archive.read_archive(Source(path), Limits(), mode)


def _refused(rule: str, *words: str) -> Any:
    return pytest.raises(
        weights_io.WeightsError, match=f"(?s)\\[{re.escape(rule)}\\]" + ".*".join(map(re.escape, ("", *words)))
    )


def _written(*members: tuple[str, bytes], align: int = 64) -> bytes:
    file = io.BytesIO()
    writer = zip_archive.ZipWriter(file)
    for name, data in members:
        writer.add(name, len(data), [data], align)
    writer.close()
    return file.getvalue()


def _as_zipfile(path: Path, archive: zip_archive.Archive) -> None:
    """Names, sizes, checksums and bytes are those that zipfile reads."""
    with zipfile.ZipFile(path) as other:
        assert other.namelist() == list(archive.members)
        for info in other.infolist():
            member = archive.members[info.filename]
            assert (member.stored, member.size, member.crc) == (info.compress_size, info.file_size, info.CRC)
            assert archive.array(info.filename).tobytes() == other.read(info)


class Unseekable(io.RawIOBase):
    """A stream that only grows: zipfile then writes descriptors."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += data
        return len(data)


# --- what others write ------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\\\0/:"), min_size=1, max_size=8),
        st.binary(max_size=300),
        max_size=5,
    ),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.booleans(),
    st.booleans(),
    st.binary(max_size=9).filter(lambda comment: b"PK\5\6" not in comment),
)
def test_what_zipfile_writes_is_read(
    tmp_path_factory: Any, contents: Any, method: int, seekable: bool, large: bool, comment: bytes
) -> None:
    contents = {name: data for name, data in contents.items() if name != ".."}
    stream: Any = io.BytesIO() if seekable else Unseekable()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, data in contents.items():
            with file.open(zipfile.ZipInfo(name), "w", force_zip64=large) as member:
                member.write(data)
        file.comment = comment
    path = tmp_path_factory.mktemp("any") / "a.zip"
    archive = _open(path, bytes(stream.getvalue() if seekable else stream.content))
    assert {name: bytes(archive.array(name)) for name in archive.members} == contents
    assert archive.comment == comment
    _as_zipfile(path, archive)


@pytest.mark.parametrize("case", build_zip.good(), ids=lambda case: case.name)
def test_what_the_corpus_calls_good_is_read_as_zipfile_reads_it(case: Any, tmp_path: Path) -> None:
    path = tmp_path / case.open
    _as_zipfile(path, _open(path, case.files[case.open]))


def test_every_archive_that_pytorch_wrote_is_read_as_zipfile_reads_it() -> None:
    found = [path for path in sorted(RECORDED.rglob("*")) if path.is_file() and path.read_bytes()[:4] == b"PK\3\4"]
    if not found:
        pytest.skip("no recorded PyTorch files")
    for path in found:
        mode = "compat" if re.search("no_crc|skip_data", path.name) else "strict"
        archive = _open(path, mode=mode)
        if mode == "strict":
            _as_zipfile(path, archive)
        else:
            assert all(archive.array(name).size == member.size for name, member in archive.members.items())


def test_a_shared_fixture_is_read(shared: Any) -> None:
    path = shared("hf_gpt2") / "pytorch_model_f16.bin"
    _as_zipfile(path, _open(path))


def test_members_beyond_four_gibibytes_as_pytorch_writes_them(tmp_path: Path) -> None:
    """Sizes, then offsets, that do not fit in 32 bits; the local ZIP64 fields hold what no specification says."""
    size, name, build = 5 * GIB, b"a/data/0", build_zip
    head = build.record(build.LOCAL, {"signature": b"PK\3\4", "flags": 0x808, "name": 8, "extra": 20})
    head += name + build.wide(size, 0)
    descriptor = b"PK\7\x08" + struct.pack("<I2Q", 7, size, size)
    second = len(head) + size + len(descriptor)
    next_head = build.record(build.LOCAL, {"signature": b"PK\3\4", "flags": 0x808, "name": 8, "extra": 12})
    next_head += b"a/data/1" + build.wide(second)
    rest = next_head + b"abcd" + b"PK\7\x08" + struct.pack("<I2Q", zlib.crc32(b"abcd"), 4, 4)
    directory = build.record(
        build.CENTRAL,
        {
            "signature": b"PK\1\2",
            "flags": 0x808,
            "crc": 7,
            "stored": build.ONES,
            "size": build.ONES,
            "name": 8,
            "extra": 20,
        },
    )
    directory += name + build.wide(size, size)
    fields = {"crc": zlib.crc32(b"abcd"), "stored": 4, "size": 4, "name": 8, "extra": 12, "offset": build.ONES}
    directory += (
        build.record(build.CENTRAL, {"signature": b"PK\1\2", "flags": 0x808} | fields)
        + b"a/data/1"
        + build.wide(second)
    )
    begin = second + len(rest)
    end = {"here": 2, "entries": 2, "size": len(directory), "offset": begin}
    tail = build.record(build.END64, {"signature": b"PK\6\6", "length": 44} | end)
    tail += build.record(build.LOCATOR, {"signature": b"PK\6\7", "offset": begin + len(directory), "disks": 1})
    tail += build.record(build.END, {"signature": b"PK\5\6"} | end | {"offset": build.ONES})
    path = tmp_path / "large.pt"
    with path.open("wb") as file:  # sparse: nothing of the 5 GiB is written
        file.write(head)
        file.seek(size, 1)
        file.write(descriptor + rest + directory + tail)
    archive = _open(path)
    assert archive.members["a/data/0"] == zip_archive.Member("a/data/0", 0, len(head), size, size, 7)
    assert archive.read("a/data/1", 4) == b"abcd"
    assert archive.head("a/data/0", 3) == b"\0\0\0"
    with zipfile.ZipFile(path) as other:
        assert [info.header_offset for info in other.infolist()] == [0, second]


# --- what is written --------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\\\0/"), min_size=1, max_size=9),
            st.binary(max_size=200),
        ),
        max_size=5,
        unique_by=lambda m: m[0],
    ),
    st.sampled_from([1, 2, 4, 8, 64, 4096]),
)
def test_what_is_written_is_read_by_zipfile_and_lies_aligned(tmp_path_factory: Any, members: Any, align: int) -> None:
    members = [(name, data) for name, data in members if name != ".."]
    path = tmp_path_factory.mktemp("any") / "a.zip"
    archive = _open(path, _written(*members, align=align))
    assert {name: bytes(archive.array(name)) for name in archive.members} == dict(members)
    assert all(member.offset % align == 0 for member in archive.members.values())
    _as_zipfile(path, archive)
    assert path.read_bytes() == _written(*members, align=align)  # the same bytes for the same input


def test_the_date_is_that_of_no_day() -> None:
    with zipfile.ZipFile(io.BytesIO(_written(("a", b"1")))) as file:
        assert file.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


def test_chunks_are_any_buffers_and_taken_one_by_one(tmp_path: Path) -> None:
    seen = []

    def chunks() -> Any:
        for part in (b"ab", bytearray(b"c"), np.frombuffer(b"def", np.uint8), memoryview(np.zeros(2, np.uint8))):
            seen.append(part)
            yield part

    file = io.BytesIO()
    writer = zip_archive.ZipWriter(file)
    writer.add("a", 8, chunks())
    writer.close()
    assert _open(tmp_path / "a.zip", file.getvalue()).read("a", 8) == b"abcdef\0\0"
    assert len(seen) == 4


@pytest.mark.parametrize("size", [3, 5])
def test_a_member_of_another_size_than_announced_is_refused(size: int) -> None:
    with pytest.raises(weights_io.WeightsError, match="another size"):
        zip_archive.ZipWriter(io.BytesIO()).add("a", size, [b"four"])


@pytest.mark.parametrize("name", ["", "/a", "a/../b", "..", "a\\b", "a\0", "a" * 60_001])
def test_a_name_that_would_not_be_read_is_not_written(name: str) -> None:
    with pytest.raises(weights_io.WeightsError, match="cannot have this name"):
        zip_archive.ZipWriter(io.BytesIO()).add(name, 0, [])


def test_a_name_is_written_once() -> None:
    writer = zip_archive.ZipWriter(io.BytesIO())
    writer.add("a", 0, [])
    with pytest.raises(weights_io.WeightsError, match="cannot have this name"):
        writer.add("a", 0, [])


def test_more_than_65535_members_have_a_zip64_end_record() -> None:
    file = io.BytesIO()
    writer = zip_archive.ZipWriter(file)
    for number in range(65536):
        writer.add(f"{number:x}", 0, [], align=1)
    writer.close()
    assert file.getvalue()[-42:-38] == b"PK\6\7"
    with zipfile.ZipFile(file) as other:
        assert len(other.namelist()) == 65536


class Sparse:
    """A file in which long chunks are not written but skipped."""

    def __init__(self, file: Any) -> None:
        self.file, self.seek = file, file.seek

    def write(self, data: Any) -> None:
        length = memoryview(data).nbytes
        self.file.seek(length, 1) if length >= 1 << 20 else self.file.write(data)


def test_members_beyond_four_gibibytes_are_written_with_zip64_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = bytes(64 << 20)
    monkeypatch.setattr(zip_archive, "crc32", lambda data, crc=0: 0)  # seconds of zeros
    with (tmp_path / "a.zip").open("wb") as file:
        writer = zip_archive.ZipWriter(Sparse(file))  # type: ignore[arg-type]
        writer.add("large", 5 * GIB, (chunk for _ in range(80)))
        writer.add("after", 3, [b"abc"])
        writer.add("just", 0xFFFFFFFF, [*(chunk for _ in range(63)), chunk[:-1]])
        writer.close()
    archive = _open(tmp_path / "a.zip")
    assert [(member.size, member.offset % 64) for member in archive.members.values()] == [
        (5 * GIB, 0),
        (3, 0),
        (2**32 - 1, 0),
    ]
    with zipfile.ZipFile(tmp_path / "a.zip") as other:
        assert [info.file_size for info in other.infolist()] == [5 * GIB, 3, 2**32 - 1]


# --- reading late, once, and without copies ---------------------------------------------------------------------------------


def test_opening_reads_headers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(_written(*((str(number), bytes(1 << 20)) for number in range(8))))
    read: Counter[str] = Counter()
    original = Source.read
    monkeypatch.setattr(
        Source, "read", lambda self, at, n, field=None: read.update(bytes=n) or original(self, at, n, field)
    )
    monkeypatch.setattr(Source, "map", lambda *_: pytest.fail("mapped while opening"))
    _open(path)
    assert read["bytes"] < 80_000  # of 8 MB: the end of the file, in which a comment can be, and the headers


def test_a_stored_member_is_mapped_and_not_copied(tmp_path: Path) -> None:
    archive = _open(tmp_path / "a.zip", _written(("a", bytes(range(256)) * 65536)))
    tracemalloc.start()
    array = archive.array("a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.size == 1 << 24
    assert peak < 100_000
    assert not array.flags.writeable
    assert not array.flags.owndata


def test_a_checksum_is_computed_once_and_only_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _open(tmp_path / "a.zip", _written(("a", b"abc"), ("b", b"def")))
    seen: list[bytes] = []
    monkeypatch.setattr(
        zip_archive, "crc32", lambda data, crc=0, real=zlib.crc32: seen.append(bytes(data)) or real(data, crc)
    )
    archive.array("a", verify=False)
    assert seen == []
    archive.array("a")
    archive.array("a")
    archive.read("b", 3)
    archive.array("b")
    assert seen == [b"abc", b"def"]


@pytest.mark.parametrize("method", [0, 8])
def test_a_wrong_checksum_is_refused_each_time(method: int, tmp_path: Path) -> None:
    entry = build_zip.Entry(b"a", b"good", method, local={"crc": 9}, central={"crc": 9})
    archive = _open(tmp_path / "a.zip", build_zip.archive(entry))
    for _ in range(2):
        with _refused("zip.crc", "'a'", "CRC-32 0x00000009", f"{zlib.crc32(b'good'):#010x}"):
            archive.array("a")
    assert archive.head("a", 2) == b"go"  # which needs only these


def test_no_checksum_is_taken_in_mode_compat_of_pytorch_only(tmp_path: Path) -> None:
    content = build_zip.archive(build_zip.Entry(b"a", b"good", local={"crc": 0}, central={"crc": 0}))
    with _refused("zip.crc", 'mode="compat"'):
        _open(tmp_path / "a.zip", content).array("a")
    assert bytes(_open(tmp_path / "a.zip", content, "compat").array("a")) == b"good"
    arrays = build_zip.archive(build_zip.Entry(local={"crc": 0}, central={"crc": 0}))
    (tmp_path / "a.npz").write_bytes(arrays)
    with weights_io.open(tmp_path / "a.npz", mode="compat") as opened, _refused("zip.crc"):
        opened["x"]


def test_a_member_larger_than_its_purpose_needs_is_refused(tmp_path: Path) -> None:
    archive = _open(tmp_path / "a.zip", _written(("a", b"four")))
    assert archive.read("a", 4) == b"four"
    with _refused("zip.small", "'a'", "at most 3 bytes", "4"):
        archive.read("a", 3)


def test_a_member_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(weights_io.WeightsError, match="no member of that name"):
        _open(tmp_path / "a.zip", _written()).array("a")


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000])
@pytest.mark.parametrize("kind", ["zeros", "noise", "text"])
def test_deflated_members_of_every_size_around_the_steps(kind: str, size: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    data = {"zeros": bytes(size), "noise": noise, "text": (b"the same again " * (size // 15 + 1))[:size]}[kind]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as other:
        other.writestr("a", data)
    archive = _open(tmp_path / "a.zip", file.getvalue())
    assert archive.array("a").tobytes() == data
    assert not archive.array("a").flags.writeable
    assert archive.head("a", 100) == data[:100]
    for aligned in (0, 1, 128):
        array = archive.unpacked("a", aligned)
        assert size == 0 or (array.ctypes.data + aligned) % 64 == 0
        assert array.flags.writeable


def test_bytes_after_a_stream_are_refused_where_they_were_not_even_given_to_zlib(tmp_path: Path) -> None:
    data = bytes(zip_archive.CHUNK - 5)
    entry = build_zip.Entry(b"a", data, 8, build_zip.blocks(data) + b"more")
    with _refused("zip.deflate", "after the end of the stream"):
        _open(tmp_path / "a.zip", build_zip.archive(entry)).array("a")


def test_unpacking_needs_the_member_and_a_little(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as other:
        other.writestr("a", bytes(40 << 20))
    archive = _open(tmp_path / "a.zip", file.getvalue())
    tracemalloc.start()
    archive.array("a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (40 << 20) + (4 << 20)


# --- budgets ----------------------------------------------------------------------------------------------------------------


def _many(count: int) -> bytes:
    """An archive of as many members as can be in so few bytes."""
    content, directory = bytearray(), bytearray()
    for number in range(count):
        name = f"{number:05x}".encode()
        fields = {"name": 5, "offset": len(content)}
        directory += build_zip.record(build_zip.CENTRAL, {"signature": b"PK\1\2"} | fields) + name
        content += build_zip.record(build_zip.LOCAL, {"signature": b"PK\3\4"} | fields) + name
    end = {"signature": b"PK\5\6", "here": count, "entries": count, "size": len(directory), "offset": len(content)}
    return bytes(content + directory + build_zip.record(build_zip.END, end))


def test_more_members_than_the_size_allows_are_refused_before_they_are_built(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(_many(60_000))
    tracemalloc.start()
    with _refused("budget.heap"):
        _open(tmp_path / "a.zip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_as_many_members_as_are_allowed_cost_less_than_was_counted(tmp_path: Path) -> None:
    content = _many(20_000)
    (tmp_path / "a.zip").write_bytes(content)
    tracemalloc.start()
    archive = _open(tmp_path / "a.zip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(archive.members) == 20_000
    assert peak < 20_000 * zip_archive.MEMBER_COST + len(content)


def test_a_bomb_is_refused_by_what_it_declares_or_stopped_at_it(tmp_path: Path) -> None:
    bomb = next(case for case in build_zip.cases() if case.name == "zeros-for-ever").files[build_zip.FILE]
    archive = _open(tmp_path / "a.zip", bomb)
    tracemalloc.start()
    with _refused("zip.deflate", "more than 40128 bytes"):
        archive.array("x.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000  # of the megabyte that the stream holds


def test_no_memory_for_a_member_is_an_error_of_the_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _open(tmp_path / "a.zip", build_zip.archive(build_zip.Entry(method=8)))

    def empty(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(zip_archive.np, "empty", empty)
    with pytest.raises(weights_io.WeightsError, match=r"(?s)no memory.*'x.npy'"):
        archive.array("x.npy")


# --- which format an archive is ---------------------------------------------------------------------------------------------


def test_an_archive_of_arrays_is_npz_whatever_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    (tmp_path / "a.npz").rename(tmp_path / "weights.pt")
    with weights_io.open(tmp_path / "weights.pt") as opened:
        assert opened.format == "npz"


def test_an_archive_with_a_pickle_goes_to_the_pytorch_reader(tmp_path: Path) -> None:
    content = _written(("a/data.pkl", b"no pickle"), ("a/version", b"3\n"))
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(weights_io.WeightsError) as caught:
        weights_io.open(tmp_path / "a.npz")
    assert str(caught.value.rule).startswith(("pytorch", "pickle"))


@pytest.mark.parametrize(
    "members",
    [["config.json", "metadata.json", "model.weights.h5"], ["word/document.xml"], ["a.npy", "data/data/data.pkl"]],
)
def test_other_archives_are_refused_by_what_they_hold(members: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(_written(*((name, b"?") for name in members)))
    with _refused("zip.content", members[-1]):
        weights_io.open(tmp_path / "a.zip")
