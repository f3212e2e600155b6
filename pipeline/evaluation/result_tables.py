"""Tables of score rows with the paper's figures: results, N_ov sweep, stages, extractors, data scaling.

A row of the paper has its split, unit and normaliser, so that a reader sees what can be compared.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.evaluation.decoded_rows import MODES
from pipeline.evaluation.paper_results import NORMALISER, SPLITS, TITLES, UNIT, Published, canonical, published
from pipeline.evaluation.scores import ScoreRow, cell, markdown, metric_names

MODE_NAMES = {"asr": "ASR", "no": "No-Regist", "match": "Match-Regist", "over": "Over-Regist"}
OF = ("split", "unit", "normaliser")  # must be equal for two rows to be compared
HEAD = (
    "system", "test set", "mode", "N_ov", "CER", "cpCER", "saCER", "Δcp", "Δsa", "ref. tokens",
) + OF  # fmt: skip
TEXT_COLUMNS = 4
WORDS = frozenset(OF)  # text columns after the numbers


@dataclass(frozen=True)
class TrainingFacts:
    """Facts about a run's training that score rows lack."""

    extractor: str | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Table:
    """A titled table of cells."""

    name: str  # for file names
    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[Any, ...], ...]
    note: str = ""
    paper: frozenset[int] = field(default_factory=frozenset)  # indexes of published lines
    text_columns: int = 1

    def markdown(self) -> str:
        """Return Markdown with title and note."""
        lines = [list(self.head), *([cell(c) for c in line] for line in self.lines)]
        return f"### {self.title}\n\n{markdown(lines, self.text_columns)}" + (f"\n{self.note}\n" if self.note else "")

    def csv(self) -> str:
        """Return CSV; undefined figures are empty, others in full precision."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.head)
        writer.writerows([["" if c is None else c for c in line] for line in self.lines])
        return out.getvalue()

    def json(self) -> str:
        """Return JSON: a list of objects."""
        return json.dumps(
            [dict(zip(self.head, line, strict=True)) for line in self.lines], ensure_ascii=False, indent=1
        )


def all_tables(rows: Sequence[ScoreRow], about: Mapping[str, TrainingFacts] | None = None) -> list[Table]:
    """Return every table that the rows have figures for."""
    known = about or {}
    made = [
        results(rows), further_metrics(rows), sweep(rows), stages(rows), extractors(rows, known), scaling(rows, known)
    ]  # fmt: skip
    return [t for t in made if t is not None]


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write ``tables.md`` with all tables, and CSV and JSON of each."""
    for table in tables:
        (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        (folder / f"{table.name}.json").write_text(table.json() + "\n", encoding="utf-8")
    (folder / "tables.md").write_text("\n".join(t.markdown() for t in tables), encoding="utf-8")


def results(rows: Sequence[ScoreRow]) -> Table:
    """Tables 2 and 3 of the paper: modes × test sets, the paper's rows of the same test set and mode below ours."""
    lines: list[tuple[Any, ...]] = []
    paper = []
    for test_set, mode, ours in _blocks(rows):
        lines += [_ours(r) for r in ours]
        for p in published(test_set, mode):
            paper.append(len(lines))
            lines.append(_paper(p))
    note = "Rates in percent."
    if paper:
        note += (
            " Lines marked “paper” are published figures. Their normaliser is not stated; their AliMeeting-Eval has "
            "the size of the official Test set."
        )
    return Table("results", "Results", HEAD, tuple(lines), note, frozenset(paper), TEXT_COLUMNS)


def result_blocks(table: Table) -> list[Table]:
    """Split the results into one table per test set and mode, without columns that are empty there."""
    blocks: dict[tuple[str, str], list[int]] = {}
    for i, line in enumerate(table.lines):
        test_set = line[1] if i not in table.paper else next(reversed(blocks))[0]
        blocks.setdefault((test_set, line[2]), []).append(i)
    out = []
    for (test_set, mode), places in blocks.items():
        lines = [table.lines[i] for i in places]
        kept = [
            c for c in range(len(HEAD)) if HEAD[c] not in ("test set", "mode") and any(x[c] is not None for x in lines)
        ]
        out.append(
            Table(
                name=table.name,
                title=f"{test_set}, {MODE_NAMES[mode]}",
                head=tuple(HEAD[c] for c in kept),
                lines=tuple(tuple(line[c] for c in kept) for line in lines),
                paper=frozenset(k for k, i in enumerate(places) if i in table.paper),
                text_columns=sum(c < TEXT_COLUMNS for c in kept),
            )
        )
    return out


def further_metrics(rows: Sequence[ScoreRow]) -> Table | None:
    """Metrics that were asked for by name, one column each."""
    names = metric_names(rows)
    if not names:
        return None
    with_metrics = [r for r in rows if r.get("metrics")]
    lines = tuple(
        (system(r), r["test_set"], r["mode"], r["n_ov"], *(r["metrics"].get(n) for n in names), *(r[k] for k in OF))
        for r in with_metrics
    )
    return Table("metrics", "Further metrics, %", (*HEAD[:TEXT_COLUMNS], *names, *OF), lines, text_columns=TEXT_COLUMNS)


def sweep(rows: Sequence[ScoreRow]) -> Table | None:
    """Figure 5: Over-Regist by the number of extra registered speakers. The paper prints no numbers for it."""
    bins = [r for r in rows if is_bin(r, rows)]
    if not bins:
        return None
    bins.sort(key=lambda r: (r["test_set"], r["run"], r["stage"] or 0, ends(r["n_ov"])))
    keys = ("test_set", "n_ov", "cer", "sacer", "delta_sa", *OF)
    lines = [(system(r), *(r[k] for k in keys)) for r in bins]
    head = ("system", "test set", "N_ov", "CER", "saCER", "Δsa", *OF)
    return Table("n_ov", "Extra registered speakers (Over-Regist)", head, tuple(lines), text_columns=3)


def stages(rows: Sequence[ScoreRow]) -> Table | None:
    """Figure 4: figures after each stage. The paper prints no numbers for it."""
    staged = [r for r in rows if r["stage"] is not None and not is_bin(r, rows)]
    if len({r["stage"] for r in staged}) < 2:
        return None
    staged.sort(key=lambda r: (r["test_set"], lineage(r["run"]), MODES.index(r["mode"]), r["stage"]))
    keys = ("test_set", "mode", "stage", "cer", "cpcer", "sacer", "delta_cp", "delta_sa", *OF)
    head = ("system", "test set", "mode", "stage", "CER", "cpCER", "saCER", "Δcp", "Δsa", *OF)
    lines = tuple((lineage(r["run"]), *(r[k] for k in keys)) for r in staged)
    return Table("stages", "After each stage", head, lines, text_columns=4)


def extractors(rows: Sequence[ScoreRow], about: Mapping[str, TrainingFacts]) -> Table | None:
    """Table 4: runs that differ in the speaker embedding extractor, each after its last stage."""
    ours = [r for r in _last_stage(rows) if r["mode"] != "asr" and r["run"] in about and about[r["run"]].extractor]
    if len({about[r["run"]].extractor for r in ours}) < 2:
        return None
    lines: list[tuple[Any, ...]] = []
    for r in sorted(ours, key=lambda r: (r["test_set"], str(about[r["run"]].extractor), MODES.index(r["mode"]))):
        speaker_cer = r["cpcer"] if r["mode"] == "no" else r["sacer"]
        figures = (r["cer"], speaker_cer, *(r[k] for k in OF))
        lines.append((about[r["run"]].extractor, r["test_set"], system(r), r["mode"], *figures))
    paper = []
    if any(canonical(r["test_set"]) == "alimeeting" for r in ours):
        for p in sorted(published("alimeeting"), key=lambda p: p.extractor):
            if p.extractor and p.hours and p.hours > 7000:
                paper.append(len(lines))
                figures = (p.cer, p.speaker_cer, *_of(p))
                lines.append((p.extractor, TITLES[p.test_set], "paper: SpeakerLM", p.mode, *figures))
    head = ("extractor", "test set", "system", "mode", "CER", "cpCER (no) or saCER", *OF)
    return Table("extractors", "Speaker embedding extractor", head, tuple(lines), "", frozenset(paper), 4)


def scaling(rows: Sequence[ScoreRow], about: Mapping[str, TrainingFacts]) -> Table | None:
    """Rows by hours of SDR training data, No-Regist, beside the paper's four."""
    ours = [r for r in _last_stage(rows) if r["mode"] == "no" and r["run"] in about and about[r["run"]].hours]
    sets = list(dict.fromkeys(r["test_set"] for r in ours))
    if len({about[r["run"]].hours for r in ours}) < 2 and not any(canonical(t) for t in sets):
        return None
    lines: list[tuple[Any, ...]] = []
    paper = []
    for test_set in sets:
        found = [
            (about[r["run"]].hours, system(r), *(r[k] for k in ("cer", "cpcer", "delta_cp", *OF)), False)
            for r in ours
            if r["test_set"] == test_set
        ]
        found += [
            (p.hours, "paper: SpeakerLM", p.cer, p.speaker_cer, p.delta, *_of(p), True)
            for p in published(test_set, "no")
            if p.hours and p.extractor == "ERes2NetV2"
        ]
        for hours, name, *rest, is_paper in sorted(found, key=lambda x: (x[0], x[-1])):
            if is_paper:
                paper.append(len(lines))
            lines.append((test_set, name, hours, *rest))
    head = ("test set", "system", "hours of SDR data", "CER", "cpCER", "Δcp", *OF)
    return Table("scaling", "Hours of training data", head, tuple(lines), "", frozenset(paper), 2)


def system(row: ScoreRow) -> str:
    """Run and stage as one name."""
    said = row["stage"] is None or re.search(rf"stage[-_ ]?{row['stage']}\b", row["run"])
    return row["run"] if said else f"{row['run']} (stage {row['stage']})"


def lineage(run: str) -> str:
    """``speakerlm-stage3`` → ``speakerlm``: what the stages of one training have in common."""
    return re.sub(r"[-_ ]?stage[-_ ]?\d+", "", run) or run


def is_bin(row: ScoreRow, rows: Sequence[ScoreRow]) -> bool:
    """Whether this is one range of a sweep over N_ov: the same system has others, and contains none of them."""
    if row["mode"] != "over" or not row["n_ov"]:
        return False
    keys = ("run", "stage", "test_set", "split", "mode", "normaliser")
    ranges = {ends(r["n_ov"]) for r in rows if r["n_ov"] and all(r[k] == row[k] for k in keys)}
    low, high = ends(row["n_ov"])
    return len(ranges) > 1 and not any(low <= a and b <= high for a, b in ranges - {(low, high)})


def ends(n_ov: str) -> tuple[int, int]:
    """``"11-20"`` → (11, 20), also for sorting."""
    low, _, high = n_ov.partition("-")
    return int(low), int(high or low)


def _blocks(rows: Sequence[ScoreRow]) -> Iterator[tuple[str, str, list[ScoreRow]]]:
    """(test set, mode, rows) without the ranges of a sweep, in the order of the rows and of :data:`MODES`."""
    for test_set in dict.fromkeys(r["test_set"] for r in rows):
        for mode in MODES:
            here = [r for r in rows if (r["test_set"], r["mode"]) == (test_set, mode) and not is_bin(r, rows)]
            if here:
                yield test_set, mode, here


def _last_stage(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Rows of the last stage of each training, without the ranges of a sweep."""
    last: dict[str, int] = {}
    for r in rows:
        last[lineage(r["run"])] = max(last.get(lineage(r["run"]), 0), r["stage"] or 0)
    return [r for r in rows if (r["stage"] or 0) == last[lineage(r["run"])] and not is_bin(r, rows)]


def _ours(r: ScoreRow) -> tuple[Any, ...]:
    keys = ("test_set", "mode", "n_ov", "cer", "cpcer", "sacer", "delta_cp", "delta_sa", "n_ref")
    return (system(r), *(r[k] for k in (*keys, *OF)))


def _of(p: Published) -> tuple[str, str, str]:
    """Split, unit and normaliser of a published row."""
    return SPLITS[p.test_set], UNIT, NORMALISER


def _paper(p: Published) -> tuple[Any, ...]:
    name = (
        p.system
        + (f", {p.hours:,.0f}\u00a0h" if p.hours else "")
        + (f", {p.extractor}" if p.extractor == "CAM++" else "")
    )
    no = p.mode == "no"
    return (
        f"paper: {name}", TITLES[p.test_set], p.mode, "1-50" if p.mode == "over" else None,
        p.cer, p.speaker_cer if no else None, None if no else p.speaker_cer, p.delta if no else None,
        None if no else p.delta, None, *_of(p),
    )  # fmt: skip
