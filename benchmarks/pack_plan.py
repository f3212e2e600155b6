"""Planning a pack of hundreds of millions of utterances: time, and memory of the process.

The manifest is made up line by line as it is read, so no such file is needed. Target: peak memory below 2 GB at
300 million recordings.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shards.manifests.manifest import Recording, recording_to_json
from shards.packing.partition import LineTable, Parts
from shards.sample import Segment

LIMIT_GB = 2.0


def line(number: int, record: str) -> bytes:
    """One line of the manifest."""
    return b'{"key":"asr-%012d",%s\n' % (number, record.encode())


def template() -> str:
    """The rest of a typical line."""
    segment = Segment("corpus:speaker-012345", 0.0, 7.2, "今天下午三点我们在会议室讨论一下这个问题")
    made = Recording("k", "corpus", "train", "session-1", "zh", "wav/a/b/c.flac", (segment,), duration=7.2)
    return json.dumps(recording_to_json(made), ensure_ascii=False).split(",", 1)[1]


class LazyTable(LineTable):
    """A table over a manifest that does not exist."""

    count = 0

    def _lines(self) -> Iterator[bytes]:
        rest = template()
        return (line(number, rest) for number in range(self.count))

    def estimate_bytes(self) -> float:
        """Of 7.2 s."""
        return 138_240.0


def main() -> int:
    """Run, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--recordings", type=int, default=300_000_000)
    args = parser.parse_args()
    begin = time.process_time()
    with mock.patch.object(LazyTable, "count", args.recordings):
        table = LazyTable("nowhere")
        parts = Parts.plan(table, 1, 10_000, 1e9)
        offsets = table.offsets(parts.lines(parts.count // 2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    figures = {
        "recordings": len(table),
        "shards": parts.count,
        "recordings_in_a_shard": len(offsets),
        "cpu_s": round(time.process_time() - begin, 1),
        "peak_gb": round(peak, 3),
    }
    met = peak < LIMIT_GB
    print(json.dumps({"name": "pack_plan", "figures": figures, "targets": {"peak_gb": LIMIT_GB}, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
