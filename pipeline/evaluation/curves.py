"""``speakerlm-curves RUN [RUN …]``: one page with the training curves of one run or several.

It reads ``train.jsonl``, ``validation.jsonl`` and ``events.jsonl``, also of a running job, and writes one
self-contained HTML file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.evaluation.charts import curve_chart, smooth
from shards.commands import outcome
from shards.errors import ScoreError

TEMPLATES = Path(__file__).parent / "templates"
POINTS = 400  # of a line; longer curves are averaged down to them
X_LABELS = {"step": "step", "audio": "hours of audio"}

Points = tuple[list[float], list[float]]


@dataclass
class RunLog:
    """Logged figures of one run; ``curves`` is figure → steps and values."""

    name: str
    curves: dict[str, Points] = field(default_factory=dict)
    audio_hours: Points = field(default_factory=lambda: ([], []))  # steps, hours of audio up to the step
    seconds: float = 0.0  # of training and validation
    events: Counter[str] = field(default_factory=Counter)

    def add(self, step: int, values: dict[str, Any]) -> None:
        """Add the finite values of a step."""
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                x, y = self.curves.setdefault(name, ([], []))
                x.append(step)
                y.append(value)

    def last(self, name: str) -> float | None:
        """Return the newest value."""
        return self.curves[name][1][-1] if name in self.curves else None

    def least(self, name: str) -> float | None:
        """Return the smallest value."""
        return min(self.curves[name][1]) if name in self.curves else None


def read_run(folder: Path, name: str = "") -> RunLog:
    """Read the logs of a run.

    Raises:
        ScoreError: the folder has no logs, or a line is damaged.
    """
    run = RunLog(name or folder.name)
    if not (folder / "train.jsonl").exists() and not (folder / "validation.jsonl").exists():
        raise ScoreError(f"{folder} has no train.jsonl: name the output folder of a run")
    hours = 0.0
    for row in _rows(folder / "train.jsonl"):
        hours += row["audio_seconds"] / 3600
        run.seconds += row["seconds"]
        for list_, value in zip(run.audio_hours, (row["step"], hours), strict=True):
            list_.append(value)
        run.add(row["step"], _train_values(row))
    for row in _rows(folder / "validation.jsonl"):
        run.seconds += row["seconds"]
        run.add(row["step"], _validation_values(row))
    run.events.update(row["event"] for row in _rows(folder / "events.jsonl"))
    return run


def _train_values(row: dict[str, Any]) -> dict[str, Any]:
    seconds = row["seconds"] or math.inf
    values = {
        "training loss": row["loss"],
        "learning rate": row["lr"],
        "gradient norm": row["grad_norm"],
        "tokens a second": row["positions"] / seconds,
        "waiting for data, %": 100 * row["wait_seconds"] / seconds,
        "MFU, %": None if row.get("mfu") is None else 100 * row["mfu"],
        "memory, GiB": row.get("peak_gib"),
    }
    values |= {f"training loss: {name}": value for name, value in row["losses"].items()}
    return values | {f"gradient norm: {name}": value for name, value in row.get("module_norms", {}).items()}


def _validation_values(row: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"validation loss": row["loss"]}
    values |= {f"validation loss: {name}": value for name, value in row["losses"].items()}
    gain = row.get("registration_gain") or {}
    values |= {f"registration gain: {n}": gain.get(k) for k, n in (("names", "name tokens"), ("all", "all tokens"))}
    for mode, rates in (row.get("scores") or {}).items():
        values |= {f"{label}, %: {mode}": rates.get(key) for key, label in _RATES.items()}
    return values


_RATES = {"cer": "CER", "cpcer": "cpCER", "sacer": "saCER"}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a log; an incomplete last line of a running job is skipped."""
    from tqdm import tqdm

    if not path.exists():
        return
    bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, leave=False, disable=None)
    with path.open("rb") as file, bar:
        for number, line in enumerate(file, 1):
            bar.update(len(line))
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as e:
                raise ScoreError(f"{path}:{number}: not JSON: {e}") from e


def charts(runs: Sequence[RunLog], by: str = "step") -> list[tuple[str, str]]:
    """Return (caption, SVG) of every figure. The parts of a figure share a chart for one run, else one chart each."""
    families: dict[str, list[str]] = {}
    for name in dict.fromkeys(n for run in runs for n in run.curves):
        families.setdefault(name.partition(": ")[0], []).append(name)
    out = []
    for family in sorted(families, key=_place):
        whole, parts = [n for n in families[family] if n == family], [n for n in families[family] if n != family]
        out += [_compare(runs, name, by) for name in whole]
        if len(runs) == 1 and parts:
            lines = {n.partition(": ")[2]: _placed(runs[0], n, by) for n in sorted(parts)}  # one colour in all charts
            out.append((f"{family}, by part" if whole else family, _draw(lines, family, by)))
        else:
            out += [_compare(runs, name, by) for name in parts]
    return out


_STEADY = ("learning rate", "memory, GiB")
_ORDER = ("training loss", "validation loss", "registration gain", "saCER, %", "cpCER, %", "CER, %", "gradient norm")


def _place(family: str) -> int:
    return _ORDER.index(family) if family in _ORDER else len(_ORDER)


def _compare(runs: Sequence[RunLog], name: str, by: str) -> tuple[str, str]:
    """Plot one figure with one line per run; runs without it keep their colour."""
    # One run is named in the page's title; matplotlib gives a label of this form no legend.
    labels = ["_"] if len(runs) == 1 else [run.name for run in runs]
    empty: Points = ([], [])
    lines = {k: _placed(r, name, by) if name in r.curves else empty for k, r in zip(labels, runs, strict=True)}
    return name, _draw(lines, name.partition(": ")[0], by)


def _draw(lines: dict[str, Points], y_label: str, by: str) -> str:
    """Plot lines; noisy lines of many points are smoothed, with their averages thin behind them."""
    thinned = {label: thin(*points) for label, points in lines.items()}
    if y_label in _STEADY or not any(len(x) > POINTS / 4 for x, _ in thinned.values()):
        return curve_chart(thinned, X_LABELS[by], y_label)
    smoothed = {label: (x, smooth(y)) for label, (x, y) in thinned.items()}
    return curve_chart(smoothed, X_LABELS[by], y_label, thinned if len(lines) <= 4 else None)


def _placed(run: RunLog, name: str, by: str) -> Points:
    """Return a curve over the chosen axis."""
    steps, values = run.curves[name]
    if by == "step":
        return steps, values
    known, hours = run.audio_hours
    return [hours[i - 1] if (i := bisect_right(known, s)) else 0.0 for s in steps], values


def thin(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> Points:
    """Average neighbours down to at most so many points."""
    size = max(1, math.ceil(len(x) / points))
    starts = range(0, len(x), size)
    return [sum(x[i : i + size]) / len(x[i : i + size]) for i in starts], [
        sum(y[i : i + size]) / len(y[i : i + size]) for i in starts
    ]


def table(runs: Sequence[RunLog]) -> list[list[str]]:
    """Return one line per run, the header first."""
    head = ["run", "steps", "audio, h", "time, h", "training loss", "least validation loss", "gain, name tokens"]
    lines = [[*head, "least saCER, %", "least cpCER, %", "tokens/s", "wait, %", "events"]]
    for r in runs:
        events = ", ".join(f"{n} × {name}" for name, n in sorted(r.events.items())) or "none"
        steps, hours = r.audio_hours
        loss = smooth(r.curves["training loss"][1])[-1] if "training loss" in r.curves else None
        figures = [loss, r.least("validation loss"), r.last("registration gain: name tokens")]
        rates = [r.least("saCER, %: all"), r.least("cpCER, %: all")]
        speed = [_median(r, "tokens a second"), _median(r, "waiting for data, %")]
        lines.append(
            [
                r.name,
                f"{int(steps[-1]):,}" if steps else "–",
                f"{hours[-1]:,.1f}" if hours else "–",
                f"{r.seconds / 3600:,.2f}",
                *(_number(v, 4) for v in figures),
                *(_number(v, 2) for v in rates),
                *(_number(v, 0) for v in speed),
                events,
            ]
        )
    return lines


def _median(run: RunLog, name: str) -> float | None:
    values = sorted(run.curves[name][1]) if name in run.curves else []
    return values[len(values) // 2] if values else None


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def page(runs: Sequence[RunLog], by: str = "step") -> str:
    """Return the HTML page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    return environment.get_template("curves.html.j2").render(title=title, table=table(runs), charts=charts(runs, by))


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the shortest distinct ends of paths: ``stage4`` or ``big/stage4``."""
    parts = [f.resolve().parts for f in folders]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise ScoreError("a run is named twice")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``speakerlm-curves``."""
    p = argparse.ArgumentParser(prog="speakerlm-curves", description="Training curves of one run or several.")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run, finished or not")
    p.add_argument("--out", type=Path, default=Path("curves.html"), help="HTML file (default: curves.html)")
    p.add_argument(
        "--by", choices=X_LABELS, default="step", help="x axis; audio compares runs whose steps differ in size"
    )
    args = p.parse_args(argv)
    return outcome("speakerlm-curves", lambda: _write(args.runs, args.out, args.by))


def _write(folders: Sequence[Path], out: Path, by: str) -> int:
    runs = [read_run(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(runs, by), encoding="utf-8")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
