"""Files in which libraries do not hear all: several files one after the other (``cat a b``), headers without a length.

libsndfile and FFmpeg read the first of several streams and report neither an error nor the rest. :func:`pieces` finds
the streams and makes each a file of its own. Beginnings are looked for where a format names the end of its audio; of
FLAC and Ogg only the end of the file is read to decide whether it has several.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from shards.errors import AudioError
from shards.sound.flac import STREAMINFO_BYTES, last_sample, stream_info

_FLAC_TAIL, _OGG_TAIL = 1 << 16, 1 << 16  # bytes in which the last frame or page begins; a page has no more
_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_MARKS = (b"FORM", b".snd\x00", b"caff\x00\x01\x00\x00", b"NIST_1A\n", _W64)  # beginnings of other formats


class Window(io.RawIOBase):
    """A stretch of a file, as a file; its first bytes may be replaced."""

    def __init__(self, path: Path, first: int, last: int, head: bytes = b"") -> None:
        """Open bytes `first` to `last`; `head` replaces the first of them."""
        self._file: BinaryIO = path.open("rb")
        self._first, self._size, self._head, self._at = first, last - first, head, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the window."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position in the window."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read up to the end of the buffer or of the window."""
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        if self._at < len(self._head):
            data = self._head[self._at : self._at + len(view)]
            view[: len(data)] = data
        else:
            self._file.seek(self._first + self._at)
            data = self._file.read(len(view))
            view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def pieces(path: Path) -> list[Callable[[], Window]]:
    """Return what opens each stream of a file; an empty list if libraries read the file right as it is.

    Raises:
        AudioError: audio follows the end that the header names, and nothing says what it is.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
        size = os.fstat(file.fileno()).st_size
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return [_opens(path, *span) for span in _wave_spans(path, file, size)]
        starts = _starts(path, file, head, size)
    if len(starts) < 2:
        return []
    return [_opens(path, a, b, b"") for a, b in zip(starts, [*starts[1:], size], strict=True)]


def _opens(path: Path, first: int, last: int, head: bytes) -> Callable[[], Window]:
    return lambda: Window(path, first, last, head)


def _starts(path: Path, file: BinaryIO, head: bytes, size: int) -> list[int]:
    """Return the offsets at which streams begin; at most one for an ordinary file."""
    if head[:4] == b"fLaC":
        return _flac_starts(path, file, size)
    if head[:5] == b"OggS\0":
        return _ogg_starts(file, size)
    if head[4:8] == b"ftyp":
        return list(_boxes(file, size))
    mark = next((m for m in _MARKS if head.startswith(m)), None)
    if mark is None or size <= _announced_end(_bytes(file, 0, 1024), mark):
        return []
    return [at for at in _found(file, mark) if mark != b"FORM" or _bytes(file, at + 8, 3) == b"AIF"]


def _bytes(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _found(file: BinaryIO, mark: bytes) -> Iterator[int]:
    """Yield all offsets of `mark`."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(mark)
        while at >= 0:
            yield at
            at = data.find(mark, at + 1)


def _announced_end(head: bytes, mark: bytes) -> int:
    """Return the byte at which a file ends by its header; 0 if the header does not tell."""
    if mark == b"FORM":
        return 8 + int.from_bytes(head[4:8], "big")
    if mark == b".snd\x00":
        return int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")
    if mark == _W64:
        return int.from_bytes(head[16:24], "little")
    if mark == b"NIST_1A\n":
        fields = {m[1]: int(m[2]) for m in re.finditer(rb"(\w+) -i (\d+)", head)}
        size = [fields.get(name, 0) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
        return 1024 + math.prod(size)
    return 0


def _flac_starts(path: Path, file: BinaryIO, size: int) -> list[int]:
    head = _bytes(file, 0, STREAMINFO_BYTES)
    info = stream_info(head)
    if info is None or not info.samples:
        return []
    longest = int.from_bytes(head[15:18], "big") or _FLAC_TAIL  # bytes of the longest frame
    end = last_sample(_bytes(file, max(0, size - longest), longest), info)
    if end in (0, info.samples):  # 0: no frame ends the file, as before a tag; the decoder decides
        return []
    found = [at for at in _found(file, b"fLaC") if stream_info(_bytes(file, at, STREAMINFO_BYTES)) is not None]
    if len(found) == 1 and end > info.samples:
        raise AudioError(
            f"{path}: its header announces {info.samples / info.rate:.3f} s, its frames continue to "
            f"{end / info.rate:.3f} s; encode it again"
        )
    return found


def _ogg_starts(file: BinaryIO, size: int) -> list[int]:
    """A page with the flag 2 begins a stream; several of them at one place begin streams that are heard together."""
    tail = _bytes(file, max(0, size - _OGG_TAIL), _OGG_TAIL)
    last, at, first = tail.rfind(b"OggS\0"), 0, set()
    while (page := _bytes(file, at, 27 + 255))[:6] == b"OggS\0\x02":
        first.add(page[14:18])
        at += _page_bytes(page)
    if last < 0 or tail[last + 14 : last + 18] in first:
        return []
    starts, follows = [], -1
    for at in _found(file, b"OggS\0\x02"):
        if at != follows:
            starts.append(at)
        follows = at + _page_bytes(_bytes(file, at, 27 + 255))
    return starts


def _page_bytes(page: bytes) -> int:
    segments = page[26] if len(page) > 26 else 0
    return 27 + segments + sum(page[27 : 27 + segments])


def _boxes(file: BinaryIO, size: int) -> Iterator[int]:
    """Yield where an MP4 begins: a box ``ftyp`` that follows a ``moov``."""
    at, whole = 0, True
    while at + 8 <= size:
        length, kind = struct.unpack(">I4s", _bytes(file, at, 8))
        if kind == b"ftyp" and whole:
            yield at
            whole = False
        whole |= kind == b"moov"
        if length == 1:
            (length,) = struct.unpack(">Q", _bytes(file, at + 8, 8).ljust(8, b"\0"))
        if length < 8:
            return
        at += length


def _wave_spans(path: Path, file: BinaryIO, size: int) -> list[tuple[int, int, bytes]]:
    """Return (first, last, replaced head) of each WAV in the file; nothing for one whose header tells its length."""
    spans: list[tuple[int, int, bytes]] = []
    at = 0
    while at < size:
        end, head = _one_wave(path, file, at, size)
        spans.append((at, end, head))
        at = end
    return spans if len(spans) > 1 or any(head for _, _, head in spans) else []


def _one_wave(path: Path, file: BinaryIO, first: int, size: int) -> tuple[int, bytes]:
    """Return the end of the WAV that begins at `first`, and a head with a length if its own has none."""
    big = _bytes(file, first, 4) == b"RIFX"
    at, long_size, rate, data_end = first + 12, 0, 1, 0
    while at + 8 <= size:
        kind, length = struct.unpack(">4sI" if big else "<4sI", _bytes(file, at, 8))
        if data_end and kind in (b"RIFF", b"RIFX", b"RF64", b"BW64") and _bytes(file, at + 8, 4) == b"WAVE":
            return at, b""
        if data_end and not (_is_name(kind) and at + 8 + length <= size):
            if at == data_end + 1:  # some writers omit the padding after an odd number of bytes
                at, data_end = data_end, -1
                continue
            _check_rest(path, file, at, size, rate)
            return size, b""
        if kind == b"ds64":
            long_size = struct.unpack("<Q", _bytes(file, at + 16, 8).ljust(8, b"\0"))[0]
        elif kind == b"fmt ":
            rate = struct.unpack(">I" if big else "<I", _bytes(file, at + 16, 4).ljust(4, b"\0"))[0] or 1
        elif kind == b"data" and not data_end:
            length = long_size if length == 0xFFFFFFFF and long_size else length
            if length == 0 and not _only_chunks(file, at + 8, size):  # written into a pipe
                count = min(size - at - 8, 0xFFFFFFFF)
                return size, _bytes(file, first, at + 4 - first) + struct.pack(">I" if big else "<I", count)
            data_end = at + 8 + length
        at += 8 + length + (length & 1)
    return size, b""


def _is_name(kind: bytes) -> bool:
    return all(32 <= byte < 127 for byte in kind)


def _only_chunks(file: BinaryIO, at: int, size: int) -> bool:
    """Return whether nothing but well-formed chunks is left."""
    while at + 8 <= size:
        kind, length = struct.unpack("<4sI", _bytes(file, at, 8))
        if not _is_name(kind) or at + 8 + length > size:
            return False
        at += 8 + length + (length & 1)
    return True


def _check_rest(path: Path, file: BinaryIO, at: int, size: int, rate: int) -> None:
    """Accept a rest of 0.05 s at most (`rate` is in bytes per second), zeros and ID3 tags.

    Raises:
        AudioError: the rest may be audio.
    """
    rest = _bytes(file, at, 1 << 20)
    if size - at <= rate // 20 or rest[:3] in (b"TAG", b"ID3") or not rest.strip(b"\0"):
        return
    raise AudioError(
        f"{path}: {size - at} bytes ({(size - at) / rate:.1f} s) follow the audio that its header announces; correct "
        "the header, or write the file again (over 4 GiB as RF64 or W64)"
    )
