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
from pipeline.evaluation.figure_names import named
from pipeline.evaluation.metrics import Coarse
from pipeline.evaluation.pairing import few
from pipeline.evaluation.paper_results import NORMALISER, SPLITS, TITLES, UNIT, Published, canonical, published
from pipeline.evaluation.scores import ScoreRow, cell, markdown, metric_names
from pipeline.evaluation.timed_results import TITLES as TIMED_TITLES
from pipeline.evaluation.timed_results import UNSTATED, timed

MODE_NAMES = {"asr": "ASR", "no": "No-Regist", "match": "Match-Regist", "over": "Over-Regist"}
OF = ("split", "unit", "normaliser")  # must be equal for two rows to be compared
MISSING = "missing"  # column: clips that a row lacks
HEAD = (
    "system", "test set", "mode", "N_ov", "CER", "cpCER", "saCER", "Δcp", "Δsa", "ref. tokens", MISSING,
) + OF  # fmt: skip
TEXT_COLUMNS = 4
MISSING_NOTE = (
    "Missing: clips that the test set has in other rows, or in the reference. A row of decoded clips is summed without "
    "them; of transcripts they count as deleted."
)
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
    formats: Mapping[str, str] = field(default_factory=dict)  # column → format of its numbers; else two decimals

    def shown(self, column: int, value: Any) -> str:
        """Return a cell as text."""
        pattern = self.formats.get(self.head[column])
        return cell(value) if pattern is None or not isinstance(value, float) else format(value, pattern)

    def grid(self) -> str:
        """Return Markdown without title and note."""
        return markdown(
            [self.head, *([self.shown(i, c) for i, c in enumerate(line)] for line in self.lines)], self.text_columns
        )

    def markdown(self) -> str:
        """Return Markdown with title and note."""
        return f"### {self.title}\n\n{self.grid()}" + (f"\n{self.note}\n" if self.note else "")

    def csv(self) -> str:
        """Return CSV; undefined figures are empty, others in full precision."""
        head, lines = self._with_coarse()
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(head)
        writer.writerows([["" if c is None else c for c in line] for line in lines])
        return out.getvalue()

    def json(self) -> str:
        """Return JSON: a list of objects."""
        head, lines = self._with_coarse()
        return json.dumps([dict(zip(head, line, strict=True)) for line in lines], ensure_ascii=False, indent=1)

    def _with_coarse(self) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
        """Return head and lines with a last column that names coarse figures, if there are any."""
        cells = [zip(self.head, line, strict=True) for line in self.lines]
        marks = [", ".join(column for column, c in line if isinstance(c, Coarse)) for line in cells]
        if not any(marks):
            return self.head, self.lines
        return (*self.head, "coarse"), tuple((*line, mark) for line, mark in zip(self.lines, marks, strict=True))


def all_tables(rows: Sequence[ScoreRow], about: Mapping[str, TrainingFacts] | None = None) -> list[Table]:
    """Return every table that the rows have figures for."""
    known = about or {}
    made = [
        results(rows), with_times(rows), further_metrics(rows), sweep(rows), stages(rows), extractors(rows, known),
        scaling(rows, known),
    ]  # fmt: skip
    return [t for t in made if t is not None]


def write_tables(tables: Sequence[Table], folder: Path, data: Sequence[Table] = ()) -> None:
    """Write ``tables.md`` with all tables, and CSV and JSON of each; tables of ``data`` are too long for the former."""
    for table in [*tables, *data]:
        (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        (folder / f"{table.name}.json").write_text(table.json() + "\n", encoding="utf-8")
    (folder / "tables.md").write_text("\n".join(t.markdown() for t in tables), encoding="utf-8")


def results(rows: Sequence[ScoreRow]) -> Table:
    """Tables 2 and 3 of the paper: modes × test sets, the paper's rows of the same test set and mode below ours."""
    lines: list[tuple[Any, ...]] = []
    paper = []
    for test_set, mode, ours in blocks(rows):
        lines += [_ours(r) for r in ours]
        for p in published(test_set, mode):
            paper.append(len(lines))
            lines.append(paper_line(p))
    note = "Rates in percent."
    if paper:
        note += (
            " Lines marked “paper” are published figures. Their normaliser is not stated; their AliMeeting-Eval has "
            "the size of the official Test set."
        )
    head = _named(HEAD, rows)
    if any(r.get("missing") for r in rows):
        note += f" {MISSING_NOTE}"
    else:
        at = HEAD.index(MISSING)
        head, lines = head[:at] + head[at + 1 :], [line[:at] + line[at + 1 :] for line in lines]
    return Table("results", "Results", head, tuple(lines), note, frozenset(paper), TEXT_COLUMNS)


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
    return Table(
        "metrics",
        "Further metrics, % if no unit is given",
        (*HEAD[:TEXT_COLUMNS], *names, *OF),
        lines,
        text_columns=TEXT_COLUMNS,
    )


def with_times(rows: Sequence[ScoreRow]) -> Table | None:
    """No-Regist rows beside published results of systems that give times, for test sets that have such results."""
    lines: list[tuple[Any, ...]] = []
    paper = []
    ours = [r for r in rows if r["mode"] == "no" and timed(r["test_set"])]
    for test_set in dict.fromkeys(r["test_set"] for r in ours):
        for r in ours:
            if r["test_set"] == test_set:
                found = r.get("metrics") or {}
                der, gender, count = (found.get(n) for n in ("der", "gender-accuracy", "speaker-count"))
                rates = (der, r["cer"], r["cpcer"], r["delta_cp"])
                lines.append((system(r), test_set, *rates, gender, count, *(r[k] for k in OF)))
        for p in timed(test_set):
            paper.append(len(lines))
            figures = (p.der, p.cer, p.cpcer, p.delta, p.gender, p.count)
            lines.append((f"published: {p.system}", TIMED_TITLES[p.test_set], *figures, UNSTATED, p.unit, NORMALISER))
    titles = ("DER", "CER", "cpCER", "Δcp", "gender right", "speaker count right")
    head = _named(("system", "test set", *titles, *OF), ours)
    note = (
        "Percent. Lines marked “published” are copied from the model card of Speaker-Reasoner and from arXiv "
        "2606.02400, which do not state collar, overlap and normaliser. Ours have DER, gender and speaker count if "
        "they are asked for: --metric der --metric gender-accuracy --metric speaker-count; DER without collar, overlap "
        "scored."
    )
    return Table("with_times", "Systems with times", head, tuple(lines), note, frozenset(paper), 2) if ours else None


def sweep(rows: Sequence[ScoreRow]) -> Table | None:
    """Figure 5: Over-Regist by the number of extra registered speakers. The paper prints no numbers for it."""
    bins = [r for r in rows if is_bin(r, rows)]
    if not bins:
        return None
    bins.sort(key=lambda r: (r["test_set"], r["run"], r["stage"] or 0, ends(r["n_ov"])))
    keys = ("test_set", "n_ov", "cer", "sacer", "delta_sa", *OF)
    lines = [(system(r), *(r[k] for k in keys)) for r in bins]
    head = ("system", "test set", "N_ov", "CER", "saCER", "Δsa", *OF)
    return Table("n_ov", "Extra registered speakers (Over-Regist)", _named(head, bins), tuple(lines), text_columns=3)


def stages(rows: Sequence[ScoreRow]) -> Table | None:
    """Figure 4: figures after each stage. The paper prints no numbers for it."""
    staged = [r for r in rows if r["stage"] is not None and not is_bin(r, rows)]
    if len({r["stage"] for r in staged}) < 2:
        return None
    staged.sort(key=lambda r: (r["test_set"], lineage(r["run"]), MODES.index(r["mode"]), r["stage"]))
    keys = ("test_set", "mode", "stage", "cer", "cpcer", "sacer", "delta_cp", "delta_sa", *OF)
    head = ("system", "test set", "mode", "stage", "CER", "cpCER", "saCER", "Δcp", "Δsa", *OF)
    lines = tuple((lineage(r["run"]), *(r[k] for k in keys)) for r in staged)
    return Table("stages", "After each stage", _named(head, staged), lines, text_columns=4)


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
    return Table("extractors", "Speaker embedding extractor", _named(head, ours), tuple(lines), "", frozenset(paper), 4)


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
    return Table("scaling", "Hours of training data", _named(head, ours), tuple(lines), "", frozenset(paper), 2)


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


def _named(head: Sequence[str], rows: Sequence[ScoreRow]) -> tuple[str, ...]:
    """Name the rates of a head by what the normalisers of the rows count."""
    return tuple(named(h, [r["normaliser"] for r in rows]) for h in head)


def blocks(rows: Sequence[ScoreRow]) -> Iterator[tuple[str, str, list[ScoreRow]]]:
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


def latest(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Return, of each training, test set and mode, the rows after the last stage that was scored."""

    def place(r: ScoreRow) -> tuple[Any, ...]:
        return lineage(r["run"]), r["test_set"], r["mode"]

    last: dict[tuple[Any, ...], int] = {}
    for r in rows:
        last[place(r)] = max(last.get(place(r), 0), r["stage"] or 0)
    return [r for r in rows if (r["stage"] or 0) == last[place(r)]]


def _ours(r: ScoreRow) -> tuple[Any, ...]:
    keys = ("test_set", "mode", "n_ov", "cer", "cpcer", "sacer", "delta_cp", "delta_sa", "n_ref")
    return (system(r), *(r[k] for k in keys), missing(r), *(r[k] for k in OF))


def missing(r: ScoreRow) -> str | None:
    """Return how many clips of the test set a row lacks, and the first of them; ``None`` if it has all."""
    keys = r.get("missing")
    return f"{len(keys)}: {few(keys)}" if keys else None


def _of(p: Published) -> tuple[str, str, str]:
    """Split, unit and normaliser of a published row."""
    return SPLITS[p.test_set], UNIT, NORMALISER


def paper_line(p: Published) -> tuple[Any, ...]:
    """Return a published row as a line of the results, its columns those of :data:`HEAD`."""
    name = (
        p.system
        + (f", {p.hours:,.0f}\u00a0h" if p.hours else "")
        + (f", {p.extractor}" if p.extractor == "CAM++" else "")
    )
    no = p.mode == "no"
    return (
        f"paper: {name}", TITLES[p.test_set], p.mode, "1-50" if p.mode == "over" else None,
        p.cer, p.speaker_cer if no else None, None if no else p.speaker_cer, p.delta if no else None,
        None if no else p.delta, None, None, *_of(p),
    )  # fmt: skip
