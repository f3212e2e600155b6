"""``speakerlm-curves RUN [RUN …]``: one page with the training curves of one run or several.

It reads ``train.jsonl``, ``validation.jsonl`` and ``events.jsonl``, also of a running job, and writes one
self-contained HTML file.
"""

from __future__ import annotations

import json
import math
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.evaluation.charts import curve_chart, distinct, smooth
from shards.commands import outcome
from shards.commands.parser import Parser
from shards.dataset.pages import render, write_page
from shards.errors import ScoreError
from shards.workers import progress

TEMPLATE = Path(__file__).parent / "templates" / "curves.html.j2"
POINTS = 400  # of a line; longer curves are averaged down to them
X_LABELS = {"step": "step", "audio": "hours of audio"}

_STEADY = ("learning rate", "memory, GiB")
GROUPS = {
    "Loss": ("training loss", "validation loss"),
    "Error rates": ("saCER, %", "cpCER, %", "CER, %", "DER, %"),
    "Dialogues": ("right number of speakers, %", "well-formed first replies, %"),
    "Registration": ("registration gain",),
    "Throughput": ("tokens a second", "waiting for data, %", "MFU, %", "memory, GiB"),
    "Optimisation": ("learning rate", "gradient norm"),
}
OTHERS = "Other figures"
DEFINITIONS = {
    "training loss": "Cross-entropy per target token of each step's data, before its update. Parts: dataset/mode.",
    "validation loss": "Cross-entropy per target token of held-out data, the same at every validation.",
    "saCER, %": "Errors in characters with speakers compared by name, on the small decode of validation.",
    "cpCER, %": "Errors in characters with speakers assigned so that errors are fewest, on the small decode.",
    "CER, %": "Errors in characters, speakers ignored, on the small decode of validation.",
    "DER, %": "Diarisation error rate of the model's own times, no collar, overlap scored, on the small decode.",
    "right number of speakers, %": "Share of the small decode's clips with as many speakers as the reference.",
    "well-formed first replies, %": "Share of the turns of the small decode's dialogues whose first reply was valid.",
    "registration gain": "Validation loss with the registered voices exchanged among their names, minus that with the "
    "true ones. At 0 the model ignores the voices.",
    "tokens a second": "Positions of the language model without padding, summed over all ranks, per second.",
    "waiting for data, %": "Share of a step in which the slowest rank waits for its next batch.",
    "MFU, %": "Model FLOPs utilisation: operations that the model needs, of those that the cards can do.",
    "memory, GiB": "Most memory that was allocated on one card.",
    "learning rate": "Of the optimiser, after warm-up and decay.",
    "gradient norm": "Euclidean norm of all gradients before clipping. Parts: encoder, projectors, LoRA.",
}

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


_RATES = {
    "cer": "CER",
    "cpcer": "cpCER",
    "sacer": "saCER",
    "der": "DER",
    "right_speakers": "right number of speakers",
    "well_formed": "well-formed first replies",
}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a log; an incomplete last line of a running job is skipped."""
    if not path.exists():
        return
    bar = progress(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, leave=False)
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
        families.setdefault(_family(name), []).append(name)
    out = []
    for family in sorted(families, key=_place):
        whole, parts = [n for n in families[family] if n == family], [n for n in families[family] if n != family]
        out += [_compare(runs, name, by) for name in whole]
        if len(runs) == 1 and parts:
            lines = {n.partition(": ")[2]: _placed(runs[0], n, by) for n in sorted(parts)}
            out.append((f"{family}, by part" if whole else family, _draw(lines, family, by)))
        else:
            out += [_compare(runs, name, by) for name in parts]
    return out


def groups(drawn: Sequence[tuple[str, str]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Sort charts of :func:`charts` into titled groups; a group without charts is omitted."""
    found: dict[str, list[tuple[str, str]]] = {title: [] for title in (*GROUPS, OTHERS)}
    for caption, svg in drawn:
        title = next((t for t, families in GROUPS.items() if _family(caption) in families), OTHERS)
        found[title].append((caption, svg))
    return [(title, inside) for title, inside in found.items() if inside]


def _family(name: str) -> str:
    """``gradient norm: lora`` and ``gradient norm, by part`` → ``gradient norm``."""
    return name.partition(": ")[0].removesuffix(", by part")


def _place(family: str) -> int:
    listed = [f for families in GROUPS.values() for f in families]
    return listed.index(family) if family in listed else len(listed)


def _compare(runs: Sequence[RunLog], name: str, by: str) -> tuple[str, str]:
    """Plot one figure with one line per run that has it; a run has one colour in all charts."""
    if len(runs) == 1:  # named in the page's title; matplotlib gives a label of this form no legend
        return name, _draw({"_": _placed(runs[0], name, by)}, _family(name), by)
    lines = {run.name: _placed(run, name, by) for run in runs if name in run.curves}
    return name, _draw(lines, _family(name), by, [run.name for run in runs])


def _draw(lines: dict[str, Points], y_label: str, by: str, colour_of: Sequence[str] = ()) -> str:
    """Plot lines; noisy lines of many points are smoothed, with their averages thin behind them."""
    thinned = {label: thin(*points) for label, points in lines.items()}
    if y_label in _STEADY or not any(len(x) > POINTS / 4 for x, _ in thinned.values()):
        return curve_chart(thinned, X_LABELS[by], y_label, colour_of=colour_of)
    smoothed = {label: (x, smooth(y)) for label, (x, y) in thinned.items()}
    return curve_chart(smoothed, X_LABELS[by], y_label, thinned if len(lines) <= 4 else None, colour_of)


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
        figures = [_final_loss(r), r.least("validation loss"), r.last("registration gain: name tokens")]
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


def _final_loss(run: RunLog) -> float | None:
    return smooth(run.curves["training loss"][1])[-1] if "training loss" in run.curves else None


# Figures of the headline in order of interest: how to find them, digits, unit, which value it is.
HEADLINE: dict[str, tuple[Callable[[RunLog], float | None], int, str, str]] = {
    "Validation loss": (lambda r: r.least("validation loss"), 3, "", "least of all validations"),
    "saCER": (lambda r: r.least("saCER, %: all"), 1, "%", "least of all validations"),
    "DER": (lambda r: r.least("DER, %: all"), 1, "%", "least of all validations"),
    "Training loss": (_final_loss, 3, "", "at the end"),
    "Registration gain": (lambda r: r.last("registration gain: name tokens"), 2, "", "name tokens, last validation"),
    "Tokens per second": (lambda r: _median(r, "tokens a second"), 0, "", "median"),
}
HIGHER_IS_BETTER = ("Registration gain", "Tokens per second")
TERMS = {
    "Validation loss": "Least loss per target token of held-out data over all validations.",
    "saCER": "Least rate of errors in characters, speakers compared by name, on the small decode of validation.",
    "DER": "Least diarisation error rate of the model's own times over all validations, on the small decode.",
    "Training loss": "Loss per target token at the end of the log, averaged over about the last 3 % of the steps.",
    "Registration gain": "Of name tokens, at the last validation: loss with the registered voices exchanged among "
    "their names, minus that with the true ones. At 0 the model ignores the voices.",
    "Tokens per second": "Median over steps of the language model's positions, without padding, of all ranks.",
}


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def headline(runs: Sequence[RunLog]) -> list[dict[str, Any]]:
    """Return the first three figures of :data:`HEADLINE` that a run has, as tiles; of several runs the best one's."""
    tiles: list[dict[str, Any]] = []
    for title, (how, digits, unit, place) in HEADLINE.items():
        found = {run.name: value for run in runs if (value := how(run)) is not None}
        if not found or len(tiles) == 3:
            continue
        highest = title in HIGHER_IS_BETTER
        best = (max if highest else min)(found, key=lambda name: found[name])
        note = f"{'highest' if highest else 'lowest'}: {best}" if len(runs) > 1 else place
        lines = [(run.name, _number(found.get(run.name), digits)) for run in runs] if len(runs) > 1 else []
        tiles.append({"name": title, "value": _number(found[best], digits), "unit": unit, "note": note, "lines": lines})
    return tiles


def page(runs: Sequence[RunLog], by: str = "step") -> str:
    """Return the HTML page."""
    drawn = distinct(charts(runs, by))
    definitions = {caption: DEFINITIONS[f] for caption, _ in drawn if (f := _family(caption)) in DEFINITIONS}
    values = {
        "title": runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        "runs": [run.name for run in runs],
        "tiles": headline(runs),
        "table": table(runs),
        "groups": groups(drawn),
    }
    return render(TEMPLATE, values, definitions | TERMS)


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
    p = Parser(prog="speakerlm-curves", description="Training curves of one run or several.")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run, finished or not")
    p.add_argument("--out", type=Path, default=Path("curves.html"), help="HTML file (default: curves.html)")
    p.add_argument(
        "--by", choices=X_LABELS, default="step", help="x axis; audio compares runs whose steps differ in size"
    )
    args = p.parse_args(argv)
    return outcome("speakerlm-curves", lambda: _write(args.runs, args.out, args.by))


def _write(folders: Sequence[Path], out: Path, by: str) -> int:
    runs = [read_run(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)]
    write_page(out, page(runs, by))
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
