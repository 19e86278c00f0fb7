"""Reading blobs again: what is held against a file, and what reading leaves behind."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest
from blake3 import blake3
from torpor.state.errors import StoreFailed
from torpor.state.manifest import BlobRef
from torpor.state.scrub import CATCH_UP_S, Pace
from torpor.store import gentle_reads
from torpor.store.blobs import BlobStore
from torpor.store.gentle_reads import READ_BYTES, GentleReader, be_idle
from torpor.store.quarantine import Quarantine


def ref_of(data: bytes) -> BlobRef:
    return BlobRef(blake3(data).hexdigest(), len(data))


def reader() -> GentleReader:
    return GentleReader(lambda count: None, lambda seconds: None)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, READ_BYTES, 2 * READ_BYTES + 17])
def test_sound_is_what_has_its_digest(tmp_path: Path, size: int) -> None:
    path, data, told = tmp_path / "blob", os.urandom(size), list[int]()
    path.write_bytes(data)
    assert GentleReader(told.append, lambda seconds: None).examine(path, ref_of(data)).verdict == "sound"
    assert sum(told) == size


def test_other_bytes_another_length_and_no_file_are_told_apart(tmp_path: Path) -> None:
    path, ref = tmp_path / "blob", ref_of(b"right")
    assert reader().examine(path, ref).verdict == "gone"
    for wrong, detail in ((b"wrong", "other bytes"), (b"righ", "4 bytes instead of 5")):
        path.write_bytes(wrong)
        found = reader().examine(path, ref)
        assert (found.verdict, detail in found.detail) == ("wrong", True)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in reader().examine(path, ref).detail
    path.unlink()
    os.mkfifo(path)
    assert reader().examine(path, ref).verdict == "wrong"


def test_a_disk_that_fails_is_no_wrong_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first page of a process cannot be read: the kernel answers with EIO."""
    pauses: list[float] = []
    unmapped = GentleReader(lambda count: None, pauses.append)
    found = unmapped.examine(Path("/proc/self/mem"), BlobRef("0" * 64, 0))
    assert (found.verdict, found.detail) == ("unreadable", "the disk fails: Input/output error")
    assert pauses == [gentle_reads.AGAIN_S]


def test_what_is_right_at_the_second_reading_is_doubted_and_no_more(tmp_path: Path) -> None:
    path, ref = tmp_path / "blob", ref_of(b"right")
    path.write_bytes(b"wrong")
    found = GentleReader(lambda count: path.write_bytes(b"right") and None).examine(path, ref)
    assert (found.verdict, found.doubt) == ("sound", "other bytes")


def test_a_folder_that_may_not_be_entered_says_nothing_of_its_blobs(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreFailed):
        reader().examine(tmp_path / "file" / "blob", ref_of(b""))


def in_cache(path: Path) -> int:
    """Return how many pages of a file are in memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        pages = (len(view) + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        seen = (ctypes.c_ubyte * pages)()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
        at = libc.mmap(None, len(view), mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        assert libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(len(view)), seen) == 0
        libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(len(view)))
    return sum(page & 1 for page in seen)


def let_go(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("direct", [True, False])
def test_reading_leaves_the_page_cache_as_it_was(tmp_path: Path, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not direct:
        monkeypatch.setattr(os, "O_DIRECT", 0)
    data = os.urandom(3 * READ_BYTES + 5)
    cold, hot = tmp_path / "cold", tmp_path / "hot"
    for path in (cold, hot):
        path.write_bytes(data)
    let_go(cold)
    hot.read_bytes()
    assert (in_cache(cold), in_cache(hot)) == (0, 769)
    assert reader().examine(cold, ref_of(data)).verdict == "sound"
    assert in_cache(cold) == 0
    if direct:
        assert reader().examine(hot, ref_of(data)).verdict == "sound"
    assert in_cache(hot) == 769


def test_the_rate_is_exact_over_a_minute() -> None:
    """Reads of uneven sizes and speeds, and sleeps that last longer than they should."""
    now, read, pace = 100.0, 0, Pace(8 << 20, 100.0)
    at = 0
    while now < 160.0:
        at += 1
        size = (1 + at % 7) << 18
        now += 0.003 * (at % 11)  # the disk
        read += size
        delay = pace.delay_s(size, now)
        now += delay + (0.002 if delay else 0.0)
    assert read / (now - 100.0) == pytest.approx(8 << 20, rel=0.01)


def test_time_that_was_slept_through_is_not_made_good() -> None:
    pace = Pace(1000, 0.0)
    assert pace.delay_s(1000, 0.0) == 1.0
    assert pace.delay_s(1000, 3600.0) == 0.0  # one second of it is
    assert pace.delay_s(1000, 3600.0) == pytest.approx(2.0 - CATCH_UP_S)


def test_a_thread_reads_in_the_idle_class() -> None:
    import threading

    import psutil

    found: list[object] = []

    def run() -> None:
        found.append(be_idle())
        found.append(psutil.Process(threading.get_native_id()).ionice().ioclass)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [True, psutil.IOPRIO_CLASS_IDLE]
    assert psutil.Process().ionice().ioclass != psutil.IOPRIO_CLASS_IDLE


def test_quarantine_takes_the_file_that_was_read_and_no_other(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    quarantine, ref = Quarantine(tmp_path / "quarantine", blobs), ref_of(b"right")
    path = blobs.path(ref.digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"wrong")
    seen = reader().examine(path, ref)
    fresh = tmp_path / "fresh"
    fresh.write_bytes(b"right")
    fresh.replace(path)  # somebody has saved it again
    assert not quarantine.take(ref.digest, seen.identity)
    assert path.read_bytes() == b"right"
    path.write_bytes(b"wrong")
    assert quarantine.take(ref.digest, reader().examine(path, ref).identity)
    assert not quarantine.take(ref.digest, seen.identity)
    assert not path.exists()
    assert (list(quarantine.digests()), quarantine.size_bytes()) == ([ref.digest], 5)
    assert quarantine.path(ref.digest).read_bytes() == b"wrong"
    assert quarantine.drop(ref.digest)
    assert not quarantine.drop(ref.digest)
