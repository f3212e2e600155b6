"""Charts as inline SVG by matplotlib: text stays text, the ground is transparent, nothing is loaded from elsewhere.

Colours are variables of the page (:mod:`shards.dataset.pages`), so that a chart can be read on light and dark.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.dataset.pages import PALETTE, colour

COLOURS = tuple(light for light, _ in PALETTE)
INK, LINE = "#3a4149", "#d9dde1"
VARIABLES = {light: colour(i) for i, light in enumerate(COLOURS)} | {
    INK: f"var(--ink, {INK})",
    LINE: f"var(--line, {LINE})",
}
HEIGHT = 2.7  # of a chart, in inches; its width is 5.2
FEW = 40  # points that get marks
ROW = 66  # characters of a line of the legend
LABEL, LABEL_LINES = 28, 4  # characters of a line of a bar's label, and its lines at most

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
    if all(v > 0 for line in axes.lines for v in line.get_ydata()):
        _logarithmic_if_wide(axes)
    return _svg(figure, axes)


def _finite_losses(rows: Sequence[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """Return steps and losses; skipped steps have no loss and are omitted."""
    points = [(r["step"], r["loss"]) for r in rows if r["loss"] is not None and math.isfinite(r["loss"])]
    return [step for step, _ in points], [loss for _, loss in points]


def line_chart(
    series: Series,
    x_label: str,
    y_label: str,
    ticks: Sequence[str] | None = None,
    colour_of: Sequence[str] = (),
    height: float = HEIGHT,
) -> str:
    """Plot lines with a mark at each point; ``ticks`` are the labels of categories, ``height`` is in inches of 5.2.

    ``colour_of`` are the labels of all charts of a page: a label has one colour in all of them.
    """
    figure, axes = _axes(x_label, y_label, height)
    order = list(dict.fromkeys([*colour_of, *series]))
    for label, (x, y) in series.items():
        shade = COLOURS[order.index(label) % len(COLOURS)]
        axes.plot(x, y, color=shade, marker="o", markersize=3.5, linewidth=1.6, label=label)
    if ticks:
        axes.set_xticks(range(len(ticks)), ticks, rotation=30 if len(ticks) > 6 else 0, fontsize=9)
    elif all(float(v).is_integer() for x, _ in series.values() for v in x):
        axes.set_xticks(sorted({int(v) for x, _ in series.values() for v in x}))
    axes.set_ylim(bottom=0)
    return _svg(figure, axes)


def curve_chart(
    series: Series, x_label: str, y_label: str, faint: Series | None = None, colour_of: Sequence[str] = ()
) -> str:
    """Plot many points as lines, few with marks; ``faint`` are thin lines behind those of the same label.

    A series without points is not in the legend. ``colour_of`` are the labels of all charts of a page.
    """
    figure, axes = _axes(x_label, y_label)
    order = list(dict.fromkeys([*colour_of, *series]))
    for label, (x, y) in series.items():
        if not x:
            continue
        shade, few = COLOURS[order.index(label) % len(COLOURS)], len(x) <= FEW
        if faint and label in faint:
            axes.plot(*faint[label], color=shade, alpha=0.25, linewidth=0.7)
        axes.plot(x, y, color=shade, linewidth=1.6, marker="o" if few else None, markersize=3.5, label=label)
    values = [v for line in axes.lines for v in line.get_ydata()]
    if values and min(values) > 0:
        _logarithmic_if_wide(axes)
    return _svg(figure, axes)


def bar_chart(bars: Sequence[tuple[str, float, Sequence[float] | None]], x_label: str) -> str:
    """Plot one horizontal bar per (label, value, interval), in the given order, each with its value."""
    labels = [textwrap.wrap(label, LABEL, max_lines=LABEL_LINES, placeholder=" …") for label, _, _ in bars]
    most = max(map(len, labels), default=1)
    figure, axes = _axes(x_label, "", 0.7 + (0.16 + 0.18 * most) * len(bars))
    for place, (_, value, ends) in enumerate(bars):
        axes.barh(place, value, height=0.6, color=COLOURS[0])
        if ends:
            axes.plot(ends, (place, place), color=INK, linewidth=1.2, marker="|", markersize=6)
        right = max([value, *(ends or ())])
        beside = {"xytext": (5, 0), "textcoords": "offset points"}
        axes.annotate(f"{value:.1f}", (right, place), va="center", fontsize=10, color=INK, **beside)
    axes.set_yticks(range(len(bars)), ["\n".join(lines) for lines in labels], fontsize=9 if most > 1 else None)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max((max([v, *(e or ())]) for _, v, e in bars), default=1.0) or 1.0)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    said = "; ".join(f"{label}: {value:.1f}" for label, value, _ in bars)
    return _svg(figure, axes, f"{x_label}: {said}")


def smooth(values: Sequence[float], share: float = 0.03) -> list[float]:
    """Return the bias-corrected exponential moving average over about ``share`` of the points."""
    keep = 1 - 1 / max(1.0, share * len(values))
    out, total, weight = [], 0.0, 0.0
    for v in values:
        total, weight = keep * total + v, keep * weight + 1
        out.append(total / weight)
    return out


def distinct(charts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (caption, SVG) of one page with ids that differ, also of two charts that look alike."""
    out, seen = [], Counter[str]()
    for caption, svg in charts:
        mark = re.search(r'\bid="([0-9a-f]{8})-', svg)
        again = seen[mark[1]] if mark else 0
        out.append((caption, svg.replace(f"{mark[1]}-", f"{mark[1]}{again}-") if mark and again else svg))
        seen.update([mark[1]] if mark else [])
    return out


def _axes(x_label: str, y_label: str, height: float = HEIGHT) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "speakerlm", "font.size": 10.5})
    figure = Figure(figsize=(5.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.tick_params(which="both", colors=INK)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LINE)
    return figure, axes


def _logarithmic_if_wide(axes: Any) -> None:
    """Use a logarithmic scale, with plain numbers at its marks, if the largest value is over 20 times the smallest."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    values = [v for line in axes.lines for v in line.get_ydata() if math.isfinite(v) and v > 0]
    if not values or max(values) <= 20 * min(values):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 1000 * min(values) else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _whole_ticks(axes: Any) -> None:
    """Put marks only at whole numbers if all points of the x axis are whole: half a step does not exist."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    places = [v for line in axes.lines for v in line.get_xdata()]
    free = not isinstance(axes.xaxis.get_major_locator(), FixedLocator)
    if places and free and all(float(v).is_integer() for v in places):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))


def _said(axes: Any) -> str:
    """Describe a chart for readers who do not see it: what is drawn, and first and last value of each line."""
    parts = [f"{axes.get_ylabel()} by {axes.get_xlabel()}"]
    for line in axes.lines:
        values = [float(v) for v in line.get_ydata() if math.isfinite(v)]
        if values and (line.get_alpha() or 1) == 1:
            label = line.get_label()
            parts.append(("" if label.startswith("_") else f"{label}: ") + f"{values[0]:.4g} to {values[-1]:.4g}")
    return "; ".join(parts)


def _svg(figure: Any, axes: Any, said: str = "") -> str:
    if not said:
        _whole_ticks(axes)
    lines, labels = axes.get_legend_handles_labels()
    if lines:  # above the chart: inside, it would hide a part of some curve
        columns = max(1, min(len(labels), ROW // (max(map(len, labels)) + 6)))
        figure.legend(
            lines, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9.5, labelcolor=INK
        )
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    mark = hashlib.sha1(text.encode()).hexdigest()[:8]  # ids are the same in all figures of a page otherwise
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{mark}-", text)
    for plain, variable in VARIABLES.items():
        text = text.replace(plain, variable)
    about = f'class="chart" role="img" aria-label="{html.escape(said or _said(axes))}"'
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', lambda _: about, text, count=1)
