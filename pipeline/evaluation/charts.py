"""Charts as inline SVG by matplotlib: text stays text, the ground is transparent, nothing is loaded from elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#2563a8", "#c2571a", "#2f7d4f", "#8a4aa3", "#a3303b", "#5a6570", "#967100", "#0f7f86")
INK = "#3a4149"
FEW = 40  # points that get marks
ROW = 100  # characters of a line of the legend

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # label → x, y


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a ``train.jsonl`` or ``validation.jsonl``; an incomplete last line of a running job is skipped."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.strip()]


def loss_chart(run: Path) -> str | None:
    """Plot training loss (each step, and smoothed) and held-out loss of one run; ``None`` without a log."""
    train, held_out = read_log(run / "train.jsonl"), read_log(run / "validation.jsonl")
    if not train and not held_out:
        return None
    figure, axes = _axes("step", "loss per target token")
    if train:
        x, y = _finite_losses(train)
        axes.plot(x, y, color=COLOURS[0], alpha=0.25, linewidth=0.8)
        axes.plot(x, smooth(y), color=COLOURS[0], linewidth=1.6, label="training, smoothed")
    if held_out:
        x, y = _finite_losses(held_out)
        axes.plot(x, y, color=COLOURS[1], marker="o", markersize=3.5, linewidth=1.4, label="held out")
    if all(v > 0 for line in axes.lines for v in line.get_ydata()) and _spread(axes) > 20:
        axes.set_yscale("log")
    return _svg(figure, axes)


def _finite_losses(rows: Sequence[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """Return steps and losses; skipped steps have no loss and are omitted."""
    points = [(r["step"], r["loss"]) for r in rows if r["loss"] is not None and math.isfinite(r["loss"])]
    return [step for step, _ in points], [loss for _, loss in points]


def line_chart(
    series: Series, x_label: str, y_label: str, ticks: Sequence[str] | None = None, colour_of: Sequence[str] = ()
) -> str:
    """Plot lines with a mark at each point; ``ticks`` are the labels of categories.

    ``colour_of`` are the labels of all charts of a page: a label has one colour in all of them.
    """
    figure, axes = _axes(x_label, y_label)
    order = list(dict.fromkeys([*colour_of, *series]))
    for label, (x, y) in series.items():
        colour = COLOURS[order.index(label) % len(COLOURS)]
        axes.plot(x, y, color=colour, marker="o", markersize=3.5, linewidth=1.4, label=label)
    if ticks:
        axes.set_xticks(range(len(ticks)), ticks, rotation=30 if len(ticks) > 6 else 0, fontsize=8)
    elif all(float(v).is_integer() for x, _ in series.values() for v in x):
        axes.set_xticks(sorted({int(v) for x, _ in series.values() for v in x}))
    axes.set_ylim(bottom=0)
    return _svg(figure, axes)


def curve_chart(series: Series, x_label: str, y_label: str, faint: Series | None = None) -> str:
    """Plot many points as lines, few with marks; ``faint`` are thin lines behind those of the same label."""
    figure, axes = _axes(x_label, y_label)
    for i, (label, (x, y)) in enumerate(series.items()):
        colour, few = COLOURS[i % len(COLOURS)], len(x) <= FEW
        if faint and label in faint:
            axes.plot(*faint[label], color=colour, alpha=0.2, linewidth=0.7)
        axes.plot(x, y, color=colour, linewidth=1.4, marker="o" if few else None, markersize=3.5, label=label)
    values = [v for line in axes.lines for v in line.get_ydata()]
    if values and min(values) > 0 and _spread(axes) > 20:
        axes.set_yscale("log")
    return _svg(figure, axes)


def smooth(values: Sequence[float], share: float = 0.03) -> list[float]:
    """Return the bias-corrected exponential moving average over about ``share`` of the points."""
    keep = 1 - 1 / max(1.0, share * len(values))
    out, total, weight = [], 0.0, 0.0
    for v in values:
        total, weight = keep * total + v, keep * weight + 1
        out.append(total / weight)
    return out


def _axes(x_label: str, y_label: str) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "speakerlm", "font.size": 9})
    figure = Figure(figsize=(5.2, 2.7), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color="#d9dde1", linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#9aa3ab")
    return figure, axes


def _spread(axes: Any) -> float:
    values = [v for line in axes.lines for v in line.get_ydata() if math.isfinite(v) and v > 0]
    return max(values) / min(values) if values else 1.0


def _svg(figure: Any, axes: Any) -> str:
    lines, labels = axes.get_legend_handles_labels()
    if lines:  # above the chart: inside, it would hide a part of some curve
        columns = max(1, min(len(labels), ROW // (max(map(len, labels)) + 6)))
        figure.legend(lines, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=8, labelcolor=INK)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    mark = hashlib.sha1(text.encode()).hexdigest()[:8]  # ids are the same in all figures of a page otherwise
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{mark}-", text)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'class="chart" role="img"', text, count=1)
