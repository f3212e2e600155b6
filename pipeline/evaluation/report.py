"""Self-contained HTML report: a headline and a chart, results, breakdown, comparison, and sessions sorted by error.

Nothing is loaded from elsewhere: charts are inline SVG, audio is embedded FLAC, the script is part of the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.evaluation.breakdown import PROPERTIES, Measured, breakdown
from pipeline.evaluation.charts import distinct, loss_chart
from pipeline.evaluation.definitions import definitions
from pipeline.evaluation.error_analysis import Confusion, SessionAnalysis, analyse_session
from pipeline.evaluation.figure_names import figure_of, named
from pipeline.evaluation.normalize import Profile
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.report_charts import curves, lead_chart
from pipeline.evaluation.report_head import tiles
from pipeline.evaluation.report_results import UNKNOWN, Shown, grouped, results_by_set
from pipeline.evaluation.result_tables import Table, TrainingFacts, all_tables, latest, results
from pipeline.evaluation.scores import ScoreRow, cell, metric_names
from pipeline.evaluation.session_scores import SessionScore, score_session
from pipeline.evaluation.speaker_metrics import SpeakerScores, score_speakers
from pipeline.evaluation.timeline import assigned_colours, timeline
from shards.dataset.pages import NO_COLOUR, people_colours, render, write_page

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
FOLDED = ("stages", "n_ov", "extractors", "scaling", "errors")  # tables that a reader opens
MOST_SESSIONS = 100  # of a breakdown by session
Audio = Callable[[str], bytes | None]  # key → FLAC bytes


@dataclass(frozen=True)
class ScoredSet:
    """One test set in one mode, ready for the report."""

    title: str
    details: tuple[SessionAnalysis, ...]  # the worst first
    rest: tuple[SessionScore, ...]  # the others, the worst first
    speakers: SpeakerScores | None
    joint: str = ""  # between spans of an alignment
    collar: float = 0.0  # of DER, in seconds per side
    name: str = "hypothesis"  # of the system, in timelines


def analyse_sessions(
    sessions: Sequence[SessionTranscript],
    title: str,
    profile: Profile,
    mode: str = "no",
    by_name: bool = False,
    show: int = 20,
    audio: Audio | None = None,
    embed: int = 5,
    scores: Sequence[SessionScore] | None = None,
    collar: float = 0.0,
    speakers: SpeakerScores | None = None,
) -> ScoredSet:
    """Sort sessions by errors per token and analyse the worst.

    Args:
        by_name: compare speakers by name; ignored if ``scores`` are given.
        show: number of sessions with an alignment.
        audio: returns a session's FLAC.
        embed: how many of them get their audio embedded (about 1 MB for 50 s).
        scores: of the sessions, in their order; computed if not given.
        collar: of DER, in seconds on each side of a boundary.
        speakers: sums over the sessions with that collar; computed if not given.
    """
    if scores is None:
        scores = [score_session(s, profile, mode != "asr", by_name) for s in sessions]
    ordered = sorted(zip(scores, sessions, strict=True), key=lambda p: _badness(p[0]), reverse=True)
    details = []
    for i, (score, session) in enumerate(ordered[:show]):
        sound = audio(session.id) if audio is not None and i < embed else None
        details.append(analyse_session(session, profile, mode, by_name, data_uri(sound) if sound else None, score))
    return ScoredSet(
        title=title,
        details=tuple(details),
        rest=tuple(score for score, _ in ordered[show:]),
        speakers=(speakers or score_speakers(sessions, collar)) if mode != "asr" else None,
        joint="" if profile.token == "character" else " ",
        collar=collar,
    )


def with_other(
    first: ScoredSet,
    name: str,
    sessions: Sequence[SessionTranscript],
    profile: Profile,
    mode: str = "no",
    by_name: bool = False,
) -> ScoredSet:
    """Return a set whose sessions also have the analysis of another system, for one timeline of both.

    Sessions that the other system does not have, or has with another reference, stay as they are.

    Args:
        name: of the other system.
        sessions: the same sessions with its hypotheses.
        mode, by_name: how they are scored.
    """
    there = {s.id: s for s in sessions}
    details = []
    for d in first.details:
        found = there.get(d.score.id)
        other = analyse_session(found, profile, mode, by_name) if found else None
        if other is not None and [r.text for r in other.reference] == [r.text for r in d.reference]:
            details.append(replace(d, other=(name, other)))
        else:
            details.append(d)
    return replace(first, details=tuple(details))


def write_report(
    path: Path | str,
    rows: Sequence[ScoreRow],
    runs: Sequence[Path | str] = (),
    sets: Sequence[ScoredSet] = (),
    title: str = "Scores",
    subtitle: str = "",
    about: Mapping[str, TrainingFacts] | None = None,
    tables: Sequence[Table] = (),
    warnings: Sequence[str] = (),
    measured: Sequence[Measured] = (),
    compared: Table | None = None,
) -> None:
    """Write the page atomically.

    Args:
        rows: score rows; they become the tables and the curves.
        runs: run folders, for their loss curves.
        sets: of :func:`analyse_sessions`, one per test set and mode.
        about: extractor and hours of each run, for the tables that compare runs by them.
        tables: further tables.
        warnings: what a reader of the figures has to know.
        measured: rows with the sessions that they were summed from, for the breakdown.
        compared: of :func:`pipeline.evaluation.pairwise.pairs`.
    """
    kinds = [r["normaliser"] for r in rows]
    colours = people_colours([b.speaker for b in d.reference_bars] for s in sets for d in s.details)
    charts = _charts(rows, runs)
    named_table = names_table(sets)
    split = breakdown(_of_last_stage(measured, rows))
    values = {
        "title": title,
        "subtitle": subtitle or _subtitle(rows),
        "unit": rows[0]["unit"] if rows else "session",
        "tiles": tiles(rows),
        **charts,
        "results": results_by_set(rows),
        "notes": results(rows).note,
        "tables": [
            (grouped(t, *_layout(t)), t.name in FOLDED)
            for t in [*(all_tables(rows, about)[1:] if rows else []), *tables]
        ],
        "warnings": warnings,
        "names": grouped(named_table) if named_table else None,
        "breakdown": _by_property(split) if split else [],
        "pairs": _by_test_set(compared) if compared else [],
        "pairs_note": compared.note if compared else "",
        "sets": sets,
        "colours": colours,
    }
    filters: dict[str, Callable[..., Any]] = {
        "cell": cell,
        "lanes": lambda d, name: timeline(d, colours, name),
        "shade": _shade,
        "named": lambda text: named(text, kinds),
        "reference": lambda d: _turns(d.reference, colours),
        "hypothesis": lambda d: _turns(d.hypothesis, assigned_colours(d, d, colours)),
    }
    write_page(Path(path), render(TEMPLATE, values, definitions(kinds, metric_names(rows)), filters))


def _turns(rows: Sequence[SegLstRow], colours: Mapping[str, str]) -> list[tuple[Any, ...]]:
    """Return turns for the macro ``turns``; a time without its end is omitted."""
    times = [(r.start, r.end) if r.timed else (None, None) for r in rows]
    return [
        (*time, r.speaker, colours.get(r.speaker or "", NO_COLOUR), r.text) for time, r in zip(times, rows, strict=True)
    ]


def _charts(rows: Sequence[ScoreRow], runs: Sequence[Path | str]) -> dict[str, Any]:
    """Return the page's charts: the first one, curves, losses."""
    lead = lead_chart(rows)
    losses = [(Path(r).name, svg) for r in runs if (svg := loss_chart(Path(r)))]
    drawn = curves(rows)
    every = distinct([*([lead] if lead else []), *drawn, *losses])
    first = 1 if lead else 0
    return {
        "lead": every[0] if lead else None,
        "curves": every[first : first + len(drawn)],
        "losses": every[first + len(drawn) :],
    }


def _layout(table: Table) -> tuple[int, Sequence[str]]:
    """Return how many first columns of a table are titles of its parts, and in which columns the best is marked."""
    rates = [h for h in table.head if figure_of(h) or h in ("Δcp", "Δsa")]
    return {"stages": (3, rates), "with_times": (0, rates)}.get(table.name, (0, ()))


def _of_last_stage(measured: Sequence[Measured], rows: Sequence[ScoreRow]) -> list[Measured]:
    kept = {id(r) for r in latest(rows)}
    return [m for m in measured if id(m.row) in kept]


def last_first(measured: Sequence[Measured]) -> list[Measured]:
    """Sort rows: those after the last stage first, which are compared first."""
    kept = {id(m) for m in _of_last_stage(measured, [m.row for m in measured])}
    return sorted(measured, key=lambda m: id(m) not in kept)


def _by_property(table: Table) -> list[tuple[str, list[Shown]]]:
    """Return (test set, one table per property) of a breakdown."""
    out: dict[str, list[Shown]] = {}
    rates = [h for h in table.head if figure_of(h)]
    places = dict.fromkeys((x[0], x[4]) for x in table.lines)
    for test_set, by in sorted(places, key=lambda place: list(PROPERTIES).index(place[1])):
        lines = [x for x in table.lines if (x[0], x[4]) == (test_set, by)]
        several = len({x[1] for x in lines}) > 1
        own = [((x[1],) if several else ()) + (x[2], x[3], x[5], *x[6:]) for x in lines][:MOST_SESSIONS]
        head = (("system",) if several else ()) + ("mode", "N_ov", by, *table.head[6:])
        made = Table("breakdown", by, head, tuple(own), text_columns=len(head) - len(table.head[6:]))
        out.setdefault(test_set, []).append(grouped(made, 3 if several else 2, shaded=rates))
    return [(test_set, out[test_set]) for test_set in dict.fromkeys(x[0] for x in table.lines)]


def _by_test_set(table: Table) -> list[tuple[str, list[str], tuple[str, str], Shown]]:
    """Return (test set, rows to choose from, pair shown first, table) of the pairs.

    First is a pair with the most rates in common.
    """
    out = []
    for test_set in dict.fromkeys(x[0] for x in table.lines):
        lines = [x for x in table.lines if x[0] == test_set]
        names = list(dict.fromkeys([*(x[1] for x in lines), *(x[2] for x in lines)]))
        preset = Counter((x[1], x[2]) for x in lines).most_common(1)[0][0]
        made = replace(table, head=table.head[1:], lines=tuple(x[1:] for x in lines), note="", text_columns=3)
        out.append((test_set, names, preset, grouped(made)))
    return out


def data_uri(flac: bytes) -> str:
    """Return audio as a data URI."""
    import base64

    return "data:audio/flac;base64," + base64.b64encode(flac).decode()


def _badness(score: SessionScore) -> tuple[float, int]:
    """Return errors per token of the strictest figure; sessions without reference tokens come first."""
    edits = score.strictest
    return (edits.rate if edits.rate is not None else (float("inf") if edits.errors else -1.0), edits.errors)


def _shade(count: int, confusion: Confusion, row: int) -> Any:
    """Return a background as strong as the share of the row."""
    from markupsafe import Markup

    total = sum(confusion.counts[row])
    share = count / total if total else 0
    return Markup(f' style="background:rgba(37,99,168,{0.45 * share:.2f})"') if count else Markup("")


def names_table(sets: Sequence[ScoredSet]) -> Table | None:
    """Return use of names, speaker-count accuracy and error, and DER, one line per set."""
    lines = []
    for s in sets:
        if s.speakers is None or not s.speakers.sessions:
            continue
        used, der = s.speakers.names, s.speakers.der
        shares = [used.percent(k) if s.speakers.registered else None for k in ("absent", "generic", "unknown")]
        shares.append(used.percent("unattributed"))
        counts = (s.speakers.count_accuracy, s.speakers.count_error)
        lines.append((s.title, used.turns, *shares, *counts, der.percent if der else None))
    collars = sorted({s.collar for s in sets})
    collar = "without collar" if not any(collars) else f"collar {', '.join(f'{c:g} s' for c in collars)} on each side"
    of_counts = ("speaker count right", "speaker count error")
    head = ("set", "turns", "absent name", "spkN", "unknown name", "no speaker", *of_counts, "DER")
    note = (
        "Percent of hypothesis turns that carry the name of a registered speaker who does not speak, a generic label "
        "although names were registered, a name that was not registered, or none. Speaker count: percent with the "
        "right number of speakers, and mean absolute error in speakers. DER only where both sides have times, "
        f"{collar}, overlap scored."
    )
    return Table("names", "Names and speakers", head, tuple(lines), note) if lines else None


def _subtitle(rows: Sequence[ScoreRow]) -> str:
    if not rows:
        return ""
    splits = {r["test_set"]: "" if r["split"] == UNKNOWN else f" ({r['split']})" for r in rows}
    sets = ", ".join(test_set + split for test_set, split in splits.items())
    return (
        f"Test sets: {sets}. Unit: {rows[0]['unit']}. Normaliser: {', '.join(sorted({r['normaliser'] for r in rows}))}."
    )
