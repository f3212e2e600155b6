"""Check FLAC without decoding it, by its checksums (RFC 9639).

Each frame ends in a CRC-16 that makes the frame, as a polynomial, a multiple of the CRC's generator. So all frames
together are a multiple too, and one remainder over all of them, at memory speed, checks every frame: it finds what
decoding finds, except bytes that an encoder wrote wrong. The number in the last frame reveals a truncated file.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastcrc import crc8, crc16

STREAMINFO_BYTES = 42  # "fLaC", a block header and the block, which is always the first
_SYNC = (b"\xff\xf8", b"\xff\xf9")  # of a frame: of blocks of one size, of blocks of any size
_BLOCK_SIZES = {1: 192} | {n: 144 << n for n in range(2, 6)} | {n: 1 << n for n in range(8, 16)}


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The first metadata block, STREAMINFO."""

    rate: int
    channels: int
    bits: int
    samples: int  # 0: unknown
    block_size: int  # of all frames but the last, in a stream of blocks of one size
    md5: bytes  # of the decoded samples; zeros: unknown


def stream_info(data: bytes) -> StreamInfo | None:
    """Parse the first :data:`STREAMINFO_BYTES` of a file; None if it is not FLAC."""
    if len(data) < STREAMINFO_BYTES or data[:4] != b"fLaC" or data[4] & 0x7F:
        return None
    packed = int.from_bytes(data[18:26], "big")  # rate 20 bits, channels - 1: 3, bits - 1: 5, samples 36
    return StreamInfo(
        rate=packed >> 44,
        channels=(packed >> 41 & 7) + 1,
        bits=(packed >> 36 & 31) + 1,
        samples=packed & ((1 << 36) - 1),
        block_size=int.from_bytes(data[8:10], "big"),
        md5=data[26:42],
    )


def whole_samples(data: bytes, info: StreamInfo) -> int:
    """Return the samples of a stream whose frames are complete and undamaged; 0 for any other.

    Bytes after the last frame, such as a tag, which decoders skip, also give 0.
    """
    body = _body(data)
    if body is None or crc16.umts(body):
        return 0
    sync = bytes(body[:2])
    if sync not in _SYNC:
        return 0
    samples = _last_frame_end(data, len(data) - len(body), sync, info)
    return samples if info.samples in (samples, 0) else 0


def last_sample(tail: bytes, info: StreamInfo) -> int:
    """Return the position in samples of the end of the last frame in `tail`, the end of a file.

    0 if no frame ends there: the file is truncated or damaged, a tag follows, or the frame is longer than `tail`.
    """
    return max(_last_frame_end(tail, 0, sync, info) for sync in _SYNC)


def _last_frame_end(data: bytes, first: int, sync: bytes, info: StreamInfo) -> int:
    """Return the position in samples of the end of the frame with which `data` ends; 0 if it ends in no frame."""
    end = len(data)
    while (start := data.rfind(sync, first, end)) >= 0:
        samples = _samples_until_end(data[start : start + 16], info)
        if samples and crc16.umts(memoryview(data)[start:]) == 0:
            return samples
        end = start + 1  # the pattern inside a frame
    return 0


def holds_another(data: bytes) -> bool:
    """Return whether another FLAC file begins inside the file."""
    at = data.find(b"fLaC", 4)
    while at >= 0:
        if stream_info(data[at : at + STREAMINFO_BYTES]) is not None:
            return True
        at = data.find(b"fLaC", at + 1)
    return False


def with_samples(data: bytes, samples: int) -> bytes:
    """Fill in the length of a stream, which an encoder that writes into a pipe omits."""
    return data[:21] + bytes([data[21] & 0xF0 | samples >> 32]) + (samples & 0xFFFFFFFF).to_bytes(4, "big") + data[26:]


def _body(data: bytes) -> memoryview | None:
    """Return all frames: the bytes after the last metadata block."""
    position = 4
    while position + 4 <= len(data):
        last = data[position] & 0x80
        position += 4 + int.from_bytes(data[position + 1 : position + 4], "big")
        if last:
            return memoryview(data)[position:]
    return None


def _samples_until_end(head: bytes, info: StreamInfo) -> int:
    """Return the position in samples of the end of the frame with this header; 0 if it is not a frame header."""
    if len(head) < 8:
        return 0
    number_bytes = 1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()
    size_code, rate_code = head[2] >> 4, head[2] & 15
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    at = 4 + number_bytes
    length = at + size_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if not 1 <= number_bytes <= 7 or length >= len(head) or crc8.smbus(head[:length]) != head[length]:
        return 0
    number = head[4] & (0x7F >> number_bytes) if number_bytes > 1 else head[4]
    for byte in head[5:at]:
        number = number << 6 | byte & 0x3F
    size = int.from_bytes(head[at : at + size_bytes], "big") + 1 if size_bytes else _BLOCK_SIZES.get(size_code, 0)
    return (number if head[1] & 1 else number * info.block_size) + size
