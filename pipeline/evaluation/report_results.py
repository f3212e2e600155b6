"""Tables of the report: what a reader compares together, the best of each column marked, repeated facts said once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.evaluation.figure_names import named
from pipeline.evaluation.paper_results import published
from pipeline.evaluation.result_tables import (
    HEAD,
    MISSING,
    MISSING_NOTE,
    MODE_NAMES,
    OF,
    WORDS,
    Table,
    blocks,
    latest,
    missing,
    paper_line,
    system,
)
from pipeline.evaluation.scores import ScoreRow, cell

KEYS = {
    "N_ov": "n_ov", "CER": "cer", "cpCER": "cpcer", "saCER": "sacer", "Δcp": "delta_cp", "Δsa": "delta_sa",
    "ref. tokens": "n_ref", MISSING: "missing",
    "split": "split", "unit": "unit", "normaliser": "normaliser",
}  # fmt: skip
UNKNOWN = "?"  # a split that was not given
RATES = ("CER", "cpCER", "saCER")


@dataclass(frozen=True)
class Cell:
    """Text of a cell; ``share`` of the column's largest value shades it."""

    text: str
    interval: str = ""
    best: bool = False
    share: float | None = None


@dataclass(frozen=True)
class Line:
    """Name and cells of a row."""

    name: str
    cells: tuple[Cell, ...]
    published: bool = False
    term: str = ""  # before the name, with its definition


@dataclass(frozen=True)
class Part:
    """Lines that are compared with each other."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Shown:
    """A table as the page shows it. ``head`` begins with the title of the lines' names."""

    title: str
    head: tuple[str, ...]
    parts: tuple[Part, ...]
    note: str = ""
    words: tuple[bool, ...] = ()  # whether a column holds words


def results_by_set(rows: Sequence[ScoreRow]) -> list[Shown]:
    """Return one table per test set: our rows after their last stage, published ones below them, mode by mode."""
    final = latest(rows)
    sets: dict[str, list[tuple[str, list[ScoreRow]]]] = {}
    for test_set, mode, ours in blocks(final):
        sets.setdefault(test_set, []).append((mode, ours))
    return [_result(test_set, modes) for test_set, modes in sets.items()]


def _result(test_set: str, modes: Sequence[tuple[str, list[ScoreRow]]]) -> Shown:
    values: list[tuple[str, str, dict[str, Any], Mapping[str, Sequence[float]], bool]] = []
    for mode, ours in modes:
        for r in ours:
            found = {title: missing(r) if title == MISSING else r[key] for title, key in KEYS.items()}
            values.append((mode, system(r), found, r.get("ci") or {}, False))
        for p in published(test_set, mode):
            line = dict(zip(HEAD, paper_line(p), strict=True))
            values.append((mode, line["system"], line, {}, True))
    own = [v for _, _, v, _, is_published in values if not is_published]
    constant = [k for k in OF if len({v[k] for _, _, v, _, _ in values}) == 1]
    columns = [k for k in KEYS if k not in constant and any(v[k] is not None for _, _, v, _, _ in values)]
    parts = []
    for mode, _ in modes:
        here = [v for v in values if v[0] == mode]
        best = _best([v for _, _, v, _, is_published in here if not is_published], columns)
        lines = tuple(
            Line(name, tuple(_cell(k, v[k], ci, not pub and k in best and v[k] == best[k]) for k in columns), pub)
            for _, name, v, ci, pub in here
        )
        parts.append(Part(MODE_NAMES[mode], lines))
    kinds = [v["normaliser"] for v in own]
    notes = [f"{k}: {values[0][2][k]}" for k in constant if values[0][2][k] != UNKNOWN]
    note = " · ".join([*notes, *([MISSING_NOTE] if MISSING in columns else [])])
    head = ("system", *(named(k, kinds) for k in columns))
    return _flat(Shown(test_set, head, tuple(parts), note, tuple(k in (*WORDS, MISSING) for k in columns)))


def _flat(t: Shown) -> Shown:
    """Return a table whose parts all have one line without titles of parts: they become the names of the lines."""
    if any(len(p.lines) > 1 for p in t.parts):
        return t
    names = {p.lines[0].name for p in t.parts}
    same = len(names) == 1
    lines = tuple(replace(p.lines[0], name="" if same else p.lines[0].name, term=p.title) for p in t.parts)
    note = " · ".join(filter(None, [*(f"{t.head[0]}: {name}" for name in names if same), t.note]))
    head = ("mode" if same else f"mode, {t.head[0]}", *t.head[1:])
    return replace(t, head=head, parts=(Part("", lines),), note=note)


def _best(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, float]:
    """Return the least rate of each column with two different ones at least."""
    found = {k: [r[k] for r in rows if r[k] is not None] for k in columns if k in (*RATES, "Δcp", "Δsa")}
    return {k: min(v) for k, v in found.items() if len(set(v)) > 1}


def _cell(column: str, value: Any, intervals: Mapping[str, Sequence[float]], best: bool) -> Cell:
    ends = intervals.get(KEYS[column])
    interval = f"{ends[0]:.2f} – {ends[1]:.2f}" if ends and value is not None else ""
    return Cell(f"{value:,}" if isinstance(value, int) else cell(value), interval, best)


def grouped(table: Table, by: int = 0, marked: Sequence[str] = (), shaded: Sequence[str] = ()) -> Shown:
    """Return any table; its first ``by`` text columns become titles of parts.

    Args:
        marked: columns whose least value in each part is the best; of measured lines only.
        shaded: columns whose cells are shaded by their share of the largest value in the table.
    """
    constant = [i for i, h in enumerate(table.head) if h in WORDS and len({x[i] for x in table.lines}) == 1]
    empty = [i for i in range(by, len(table.head)) if all(x[i] is None for x in table.lines)]
    columns = [i for i in range(by + 1, len(table.head)) if i not in constant and i not in empty]
    most = {i: max((x[i] for x in table.lines if x[i]), default=0) for i in columns if table.head[i] in shaded}
    parts = []
    for title, places in _runs_of(table, by):
        own = [table.lines[i] for i in places if i not in table.paper]
        least = {
            c: min(v)
            for c in columns
            if table.head[c] in marked and len(set(v := [x[c] for x in own if x[c] is not None])) > 1
        }
        lines = []
        for i in places:
            x, is_published = table.lines[i], i in table.paper
            cells = tuple(
                Cell(
                    MODE_NAMES.get(x[c], x[c]) if table.head[c] == "mode" else table.shown(c, x[c]),
                    best=not is_published and c in least and x[c] == least[c],
                    share=x[c] / most[c] if most.get(c) and x[c] is not None else None,
                )
                for c in columns
            )
            lines.append(Line(table.shown(by, x[by]), cells, is_published))
        parts.append(Part(title, tuple(lines)))
    facts = [f"{table.head[i]}: {table.lines[0][i]}" for i in constant if table.lines[0][i] != UNKNOWN]
    head = (table.head[by], *(table.head[c] for c in columns))
    words = tuple(table.head[c] in WORDS or c < table.text_columns for c in columns)
    return Shown(table.title, head, tuple(parts), " · ".join(filter(None, [*facts, table.note])), words)


def _runs_of(table: Table, by: int) -> Iterator[tuple[str, list[int]]]:
    """Yield (title, places) of lines that agree in the first columns."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, line in enumerate(table.lines):
        groups.setdefault(line[:by], []).append(i)
    for key, places in groups.items():
        yield ", ".join(MODE_NAMES.get(str(k), str(k)) for k in key if k is not None), places
