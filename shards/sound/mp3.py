"""Whether an MP3 tells its length: libraries estimate the length of one without a Xing or Info header.

Such a header, the first frame of the file, holds the number of frames and of bytes. Files that were written into a pipe
or joined lack it or have a wrong one, and an estimate from size and first bit rate cuts off audio or promises too much.
"""

from __future__ import annotations

from pathlib import Path

RUN_IN = 16 * 1152  # samples decoded before a span: a frame may use bits of frames before it
_TAG_BYTES = 256  # of a tag at the end; audio behind a longer one would be counted


def tells_its_length(path: Path) -> bool:
    """Return whether a Xing or Info header gives the number of frames, and no audio follows those it counts."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = 0
        while True:  # ID3 tags, with artwork of any size
            file.seek(start)
            head = file.read(256)
            if head[:3] != b"ID3" or len(head) < 10:
                break
            start += (
                10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10])) + 10 * bool(head[5] & 16)
            )
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if head[:1] != b"\xff" or at < 0 or head[at + 7 : at + 8] == b"" or head[at + 7] & 3 != 3:
        return False
    frames, count = (int.from_bytes(head[at + i : at + i + 4], "big") for i in (8, 12))
    return frames > 0 and count > 0 and size - start - count <= _TAG_BYTES
