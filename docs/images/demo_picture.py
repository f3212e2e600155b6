"""Draw docs/images/demo.png from a finished demo: one conversation with its transcript, and the error rates by stage.

python docs/images/demo_picture.py demo
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import soundfile
from matplotlib.axes import Axes

COLOURS = ("#2a5c8f", "#c0561f", "#2f7d57", "#7a4b94")
FIGURES = (
    ("no", "cer", "CER, no registration"),
    ("no", "cpcer", "cpCER, no registration"),
    ("match", "sacer", "saCER, registered"),
    ("over", "sacer", "saCER, with others registered too"),
)


def conversation(demo: Path, key: str | None) -> dict[str, Any]:
    """Return the clip `key`, or the first in Latin script with three speakers and five turns or fewer."""
    lines = (demo / "decoded" / "stage4" / "test-simulated" / "over.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        latin = all(ord(c) < 0x250 for s in row["reference"] for c in s["text"])
        if row["key"] == key or (key is None and latin and len(row["name_of"]) == 3):
            return row  # type: ignore[no-any-return]
    raise SystemExit(f"no such conversation in {demo}")


def draw_conversation(axes: Axes, demo: Path, row: dict[str, Any]) -> None:
    """Waveform with who speaks when and what was said; below it what the model wrote."""
    audio, rate = soundfile.read(next((demo / "data" / "mixed" / "test-simulated").rglob(row["key"] + ".flac")))
    names = list(dict.fromkeys(s["speaker"] for s in row["reference"]))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    hop = rate // 100
    peaks = np.abs(audio[: len(audio) // hop * hop]).reshape(-1, hop).max(axis=1)
    axes.fill_between(np.arange(len(peaks)) / 100, -peaks / peaks.max(), peaks / peaks.max(), color="#c9ced6", lw=0)
    for s in row["reference"]:
        axes.axvspan(s["start"], s["end"], ymin=0.52, ymax=0.98, color=colour[s["speaker"]], alpha=0.18, lw=0)
        said = f"{s['speaker']}\n“{s['text']}”"
        axes.text((s["start"] + s["end"]) / 2, 1.2, said, ha="center", color=colour[s["speaker"]], fontsize=9)
    turns = "\n".join(f"{h['speaker']}: {h['text']}" for h in row["hypothesis"]).split("\n")
    axes.text(0, -1.5, "The model writes:", fontsize=9, color="#555555")
    for i, turn in enumerate(turns):
        name = turn.split(":")[0]
        axes.text(0, -1.9 - 0.38 * i, turn, fontsize=10, family="monospace", color=colour.get(name, "black"))
    others = len(row["names"]) - len(names)
    axes.set_title(f"A test conversation; {len(names)} speakers and {others} others are registered", fontsize=10)
    axes.set(xlim=(0, len(audio) / rate), ylim=(-1.9 - 0.38 * len(turns), 1.9), yticks=[], xticks=[])
    axes.spines[:].set_visible(False)


def draw_rates(axes: Axes, demo: Path) -> None:
    """Error rates after each stage."""
    rows = json.loads((demo / "scores.json").read_text(encoding="utf-8"))
    for (mode, figure, label), colour in zip(FIGURES, COLOURS, strict=True):
        points = [(r["stage"], r[figure]) for r in rows if (r["test_set"], r["mode"]) == ("test-simulated", mode)]
        stages, rates = zip(*sorted(points), strict=True)
        axes.plot(stages, rates, "o-", color=colour, label=f"{label}: {rates[-1]:.0f}", lw=1.8, ms=4)
    axes.set(xticks=[1, 2, 3, 4], ylim=(0, None))
    axes.set_xticklabels(["1 ASR", "2 simulated", "3 harder", "4 all modules"], fontsize=8)
    axes.set_title("Error rates after each stage, % (legend: after stage 4)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e3e6ea")
    axes.legend(fontsize=8, frameon=False)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder of a finished demo")
    parser.add_argument("--key", help="conversation to show")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("demo.png"))
    args = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(1.35, 1), layout="constrained")
    draw_conversation(left, args.demo, conversation(args.demo, args.key))
    draw_rates(right, args.demo)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
