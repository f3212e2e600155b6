"""Self-contained HTML report: tables with the paper's rows, curves, and sessions sorted by error.

Nothing is loaded from elsewhere: charts are inline SVG, audio is embedded FLAC, there is no script.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.charts import line_chart, loss_chart
from pipeline.evaluation.error_analysis import Confusion, SessionAnalysis, analyse_session
from pipeline.evaluation.normalize import Profile
from pipeline.evaluation.records import SessionTranscript
from pipeline.evaluation.result_tables import (
    MODE_NAMES,
    WORDS,
    Table,
    TrainingFacts,
    all_tables,
    ends,
    is_bin,
    lineage,
    result_blocks,
    results,
    system,
)
from pipeline.evaluation.scores import ScoreRow, cell
from pipeline.evaluation.session_scores import SessionScore, score_session
from pipeline.evaluation.speaker_metrics import SpeakerScores, score_speakers
from pipeline.evaluation.timeline import timeline

TEMPLATES = Path(__file__).parent / "templates"
Audio = Callable[[str], bytes | None]  # key → FLAC bytes


@dataclass(frozen=True)
class ScoredSet:
    """One test set in one mode, ready for the report."""

    title: str
    details: tuple[SessionAnalysis, ...]  # the worst first
    rest: tuple[SessionScore, ...]  # the others, the worst first
    speakers: SpeakerScores | None
    joint: str = ""  # between spans of an alignment


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
) -> ScoredSet:
    """Sort sessions by errors per token and analyse the worst.

    Args:
        by_name: compare speakers by name; ignored if ``scores`` are given.
        show: number of sessions with an alignment.
        audio: returns a session's FLAC.
        embed: how many of them get their audio embedded (about 1 MB for 50 s).
        scores: of the sessions, in their order; computed if not given.
    """
    if scores is None:
        scores = [score_session(s, profile, mode != "asr", by_name) for s in sessions]
    pairs = sorted(zip(scores, sessions, strict=True), key=lambda p: _badness(p[0]), reverse=True)
    details = []
    for i, (score, session) in enumerate(pairs[:show]):
        sound = audio(session.id) if audio is not None and i < embed else None
        details.append(analyse_session(session, profile, mode, by_name, data_uri(sound) if sound else None, score))
    return ScoredSet(
        title=title,
        details=tuple(details),
        rest=tuple(score for score, _ in pairs[show:]),
        speakers=score_speakers(sessions) if mode != "asr" else None,
        joint="" if profile.token == "character" else " ",
    )


def _numeric(table: Table, column: int) -> bool:
    """Whether a column is right-aligned."""
    return column >= table.text_columns and table.head[column] not in WORDS


def write_report(
    path: Path | str,
    rows: Sequence[ScoreRow],
    runs: Sequence[Path | str] = (),
    sets: Sequence[ScoredSet] = (),
    title: str = "Scores",
    subtitle: str = "",
    about: Mapping[str, TrainingFacts] | None = None,
) -> None:
    """Write the page atomically.

    Args:
        rows: score rows; they become the tables and the curves.
        runs: run folders, for their loss curves.
        sets: of :func:`analyse_sessions`, one per test set and mode.
        about: extractor and hours of each run, for the tables that compare runs by them.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "cell": cell,
        "interval": lambda table, column, line: _interval(rows, table, column, line),
        "timeline": timeline,
        "shade": _shade,
        "numeric": _numeric,
    }
    losses = [(Path(r).name, svg) for r in runs if (svg := loss_chart(Path(r)))]
    page = environment.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle or _subtitle(rows),
        unit=rows[0]["unit"] if rows else "session",
        results=result_blocks(results(rows)) if rows else [],
        notes=results(rows).note,
        tables=all_tables(rows, about)[1:] if rows else [],
        curves=curves(rows),
        losses=losses,
        names=names_table(sets),
        sets=sets,
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, suffix=".tmp", delete=False) as f:
        f.write(page)
    Path(f.name).chmod(0o644)
    Path(f.name).replace(target)


def curves(rows: Sequence[ScoreRow]) -> list[tuple[str, str]]:
    """Return (caption, SVG): figures by stage and by N_ov, for each test set with more than one point."""
    out = []
    labels = list(dict.fromkeys(label for figure in ("cpcer", "cer") for label in stage_series(rows, figure)))
    for test_set in dict.fromkeys(r["test_set"] for r in rows):
        here = [r for r in rows if r["test_set"] == test_set]
        for figure, name in (("cer", "CER"), ("cpcer", "cpCER"), ("sacer", "saCER")):
            series = stage_series(here, figure)
            if series:
                chart = line_chart(series, "stage", f"{name} (%)", colour_of=labels)
                out.append((f"{test_set}: {name} after each stage, %", chart))
        bins = sorted((r for r in here if is_bin(r, rows)), key=lambda r: ends(r["n_ov"]))
        ticks = list(dict.fromkeys(r["n_ov"] for r in bins))
        swept: dict[str, tuple[list[float], list[float]]] = {}
        for r in bins:
            if r["sacer"] is not None:
                x, y = swept.setdefault(system(r), ([], []))
                x.append(ticks.index(r["n_ov"]))
                y.append(r["sacer"])
        if swept:
            chart = line_chart(swept, "extra registered speakers", "saCER (%)", ticks)
            out.append((f"{test_set}: saCER by extra registered speakers, %", chart))
    return out


def stage_series(rows: Sequence[ScoreRow], figure: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return mode → stages and figures; labelled with the training if there are several."""
    several = len({lineage(r["run"]) for r in rows}) > 1
    series: dict[str, tuple[list[float], list[float]]] = {}
    for r in sorted(rows, key=lambda r: r["stage"] or 0):
        if r["stage"] is not None and r[figure] is not None and not is_bin(r, rows):
            label = (f"{lineage(r['run'])}, " if several else "") + MODE_NAMES[r["mode"]]
            name, same = label, 1
            while r["stage"] in series.get(name, ([], []))[0]:  # two runs may have one name: each gets its line
                same += 1
                name = f"{label} ({same})"
            x, y = series.setdefault(name, ([], []))
            x.append(r["stage"])
            y.append(r[figure])
    return {k: v for k, v in series.items() if len(set(v[0])) > 1}


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


_CI_KEYS = {"CER": "cer", "cpCER": "cpcer", "saCER": "sacer", "Δcp": "delta_cp", "Δsa": "delta_sa"}


def _interval(rows: Sequence[ScoreRow], table: Table, column: int, line: Sequence[Any]) -> str:
    """Return the interval of a cell of the results as text. A block's title is its test set and mode."""
    key = _CI_KEYS.get(table.head[column])
    if table.name != "results" or key is None or line[0].startswith("paper: "):
        return ""
    n_ov = line[table.head.index("N_ov")] if "N_ov" in table.head else None
    for r in rows:
        place = (system(r), f"{r['test_set']}, {MODE_NAMES[r['mode']]}", r["n_ov"])
        if place == (line[0], table.title, n_ov) and r.get(key) == line[column]:  # two runs may have one name
            found = (r.get("ci") or {}).get(key)
            return f"{found[0]:.2f} – {found[1]:.2f}" if found else ""
    return ""


def names_table(sets: Sequence[ScoredSet]) -> Table | None:
    """Return use of names, speaker-count accuracy and DER, one line per set."""
    lines = []
    for s in sets:
        if s.speakers is None or not s.speakers.sessions:
            continue
        used, der = s.speakers.names, s.speakers.der
        shares = [used.percent(k) if s.speakers.registered else None for k in ("absent", "generic", "unknown")]
        shares.append(used.percent("unattributed"))
        lines.append((s.title, used.turns, *shares, s.speakers.count_accuracy, der.percent if der else None))
    head = ("set", "turns", "absent name", "spkN", "unknown name", "no speaker", "speaker count right", "DER")
    note = (
        "Percent of hypothesis turns that carry the name of a registered speaker who does not speak, a generic label "
        "although names were registered, a name that was not registered, or none. Speaker count: percent with the "
        "right number of speakers. DER only where both sides have times, without collar, overlap scored."
    )
    return Table("names", "Names and speakers", head, tuple(lines), note) if lines else None


def _subtitle(rows: Sequence[ScoreRow]) -> str:
    if not rows:
        return ""
    sets = ", ".join(dict.fromkeys(f"{r['test_set']} ({r['split']})" for r in rows))
    return (
        f"Test sets: {sets}. Unit: {rows[0]['unit']}. Normaliser: {', '.join(sorted({r['normaliser'] for r in rows}))}."
    )
