"""``speakerlm-score REF HYP [HYP_B]``: score transcripts of one or two systems, print figures, write a report."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.evaluation.bootstrap import FIGURES, compare
from pipeline.evaluation.decoded_rows import output_notes, registered_names
from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.formats import read
from pipeline.evaluation.metrics import load_metrics
from pipeline.evaluation.metrics.orc_cer import orc_edits
from pipeline.evaluation.normalize import Profile, profile
from pipeline.evaluation.pairing import audio_in, pair
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.report import analyse_sessions, names_table, write_report
from pipeline.evaluation.result_tables import all_tables, write_tables
from pipeline.evaluation.scores import RowLabel, ScoreRow, cell, format_table, make_row, markdown, write_scores
from pipeline.evaluation.session_scores import SessionScore, names_are_shared, score_session, total
from pipeline.evaluation.speaker_metrics import diarisation, has_times, score_speakers
from pipeline.evaluation.tokens import Tokens, streams
from shards.errors import ScoreError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredSystem:
    """One hypothesis, scored."""

    name: str
    row: ScoreRow
    sessions: tuple[SessionTranscript, ...]
    scores: tuple[SessionScore, ...]


def score_transcripts(args: argparse.Namespace) -> int:
    """Run the command; ``args`` are those of ``speakerlm-score``."""
    chosen = profile(args.normaliser)
    if args.audio and not args.audio.is_dir():
        raise ScoreError(f"--audio {args.audio}: no such folder")
    reference = read(args.reference, args.ref_format, "reference")
    group = _grouping(args.group)
    hypotheses = [] if _wordless(reference) else [(p, read(p, args.hyp_format)) for p in _paths(args)]
    if not hypotheses or any(_wordless(rows) for _, rows in hypotheses):
        return _score_speakers(args, reference)
    systems = [_score_system(args, path, reference, rows, group, chosen) for path, rows in hypotheses]
    rows = [system.row for system in systems]
    print(format_table(rows, intervals=True))
    for system in systems:
        _print_details(system, args, chosen)
    if len(systems) == 2:
        _print_comparison(systems[0].scores, systems[1].scores)
    if args.out:
        _write(args, systems, chosen)
    return 0


def _paths(args: argparse.Namespace) -> list[Path]:
    return [p for p in (args.hypothesis, args.other) if p]


def _score_system(
    args: argparse.Namespace,
    path: Path,
    reference: Sequence[SegLstRow],
    hypothesis: Sequence[SegLstRow],
    group: Callable[[str], str] | None,
    chosen: Profile,
) -> ScoredSystem:
    notes = output_notes(path)
    paired = pair(reference, hypothesis, group, registered_names(path), notes)
    if notes:
        logger.warning("%s: the text of %d sessions is not in the expected form; see the report", path, len(notes))
    for finding in paired.findings:
        logger.warning("%s: %s", path, finding)
    by_name = args.by_name == "yes" or (args.by_name == "auto" and names_are_shared(paired.sessions))
    metrics = load_metrics(args.metric)
    scores = tuple(score_session(s, chosen, by_name=by_name, metrics=metrics) for s in paired.sessions)
    name = args.system if args.system and path == args.hypothesis else _name(path, args)
    mode = args.mode or ("match" if by_name else "no")
    label = RowLabel(name, None, args.test_set or args.reference.stem, args.split, mode, args.unit)
    return ScoredSystem(name, make_row(scores, label, chosen, args.replicates), paired.sessions, scores)


def _wordless(rows: Sequence[SegLstRow]) -> bool:
    """Whether rows say who spoke when and nothing else, as RTTM does."""
    return any(r.timed for r in rows) and not any(r.text.strip() for r in rows)


def _score_speakers(args: argparse.Namespace, reference: Sequence[SegLstRow]) -> int:
    """Score DER and speaker counts only: one side has no words."""
    logger.info("one side has no words: speakers are scored, not texts")
    found = {}
    for path in _paths(args):
        paired = pair(reference, read(path, args.hyp_format))
        for finding in paired.findings:
            logger.warning("%s: %s", path, finding)
        print(name := _name(path, args))
        _print_speakers(paired.sessions, args.collar)
        found[name] = paired.sessions
    if args.out:
        _write_speakers(args.out, found, args.collar)
    return 0


def _name(path: Path, args: argparse.Namespace) -> str:
    """Return a system's name: its file's, with the folder's if two systems' files have one name."""
    same = args.other is not None and args.hypothesis.stem == args.other.stem
    return f"{path.resolve().parent.name}/{path.stem}" if same else path.stem


def _write_speakers(out: Path, systems: Mapping[str, Sequence[SessionTranscript]], collar: float) -> None:
    """Write speakers.json: the figures that need no words."""
    rows = []
    for name, sessions in systems.items():
        sums = score_speakers(sessions, collar)
        each = {s.id: asdict(diarisation(s, collar)) for s in sessions if sums.der and has_times(s)}
        der = sums.der and {"percent": sums.der.percent, **asdict(sums.der)}
        row = {"system": name, "sessions": sums.sessions, "count_accuracy": sums.count_accuracy, "collar": collar}
        rows.append({**row, "der": der, "seconds_of_sessions": each})
    out.mkdir(parents=True, exist_ok=True)
    path = out / "speakers.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path)


def _print_speakers(sessions: Sequence[SessionTranscript], collar: float) -> None:
    """Print speaker-count accuracy, use of names, and DER."""
    found = score_speakers(sessions, collar)
    print(f"speaker count right: {cell(found.count_accuracy)} % of {found.sessions} sessions")
    if found.registered:
        kinds = {"absent": "absent names", "generic": "spkN", "unknown": "unknown names", "unattributed": "no speaker"}
        shares = ", ".join(f"{title} {cell(found.names.percent(kind))} %" for kind, title in kinds.items())
        print(f"of {found.names.turns} hypothesis turns: {shares}")
    if found.der:
        forgiven = f"collar {collar:g} s" if collar else "no collar"
        print(f"DER: {cell(found.der.percent)} % of {found.der.reference:.1f} s ({forgiven}, overlap scored)")
    print()


def _print_details(system: ScoredSystem, args: argparse.Namespace, chosen: Profile) -> None:
    """Print what does not fit into a row: kinds of errors, ORC-CER, speakers, DER, single sessions."""
    sums = total(system.scores)
    lines = [[system.name, "%", "insertions", "deletions", "substitutions", f"reference ({chosen.token}s)"]]
    figures = [("CER", sums.cer), ("cpCER", sums.cpcer), ("saCER", sums.sacer)]
    if args.orc:
        orc, exact = _orc(system.sessions, chosen)
        figures.append(("ORC-CER" if exact else "ORC-CER (greedy: at most)", orc))
    for title, e in figures:
        if e is not None:
            counts = [str(n) for n in (e.insertions, e.deletions, e.substitutions, e.reference)]
            lines.append([title, cell(e.percent), *counts])
    print(markdown(lines))
    if sums.cpcer is not None:
        _print_speakers(system.sessions, args.collar)
    if args.per_session:
        worst = sorted(system.scores, key=_errors, reverse=True)
        head = ["session", "CER", "cpCER", "saCER", "reference"]
        body = [
            [s.id, *(cell(e.percent) if e else "–" for e in (s.cer, s.cpcer, s.sacer)), str(s.cer.reference)]
            for s in worst
        ]
        print(markdown([head, *body]))


def _orc(sessions: Sequence[SessionTranscript], chosen: Profile) -> tuple[Edits, bool]:
    tokens = Tokens(chosen)
    found = [orc_edits(tokens.rows(s.reference), streams(tokens.rows(s.hypothesis))) for s in sessions]
    return sum((e for e, _ in found), Edits()), all(exact for _, exact in found)


def _print_comparison(a: Sequence[SessionScore], b: Sequence[SessionScore]) -> None:
    """Print a paired bootstrap of two systems, for every figure that both have."""
    if len({s.group for s in a}) < 2:
        logger.info("no comparison: it needs at least two recordings")
        return
    lines = [["B − A, points", "difference", "95 % interval", "p", "recordings"]]
    for figure, title in zip(FIGURES, ("CER", "cpCER", "saCER"), strict=True):
        if all(getattr(s, figure) is not None for s in (*a, *b)):
            c = compare(a, b, figure)
            p = f"{c.p:.4f}" if c.p else "< 0.0001"  # 10,000 replicates cannot say more
            lines.append([title, f"{c.difference:+.2f}", f"[{c.low:+.2f}, {c.high:+.2f}]", p, str(c.groups)])
    print(markdown(lines))


def _write(args: argparse.Namespace, systems: Sequence[ScoredSystem], chosen: Profile) -> None:
    """Write scores.json, sessions.tsv, tables and the report."""
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [system.row for system in systems]
    write_scores(rows, args.out / "scores.json")
    head = "system\tsession\tfigure\tinsertions\tdeletions\tsubstitutions\treference"
    lines = [head, *(line for system in systems for line in _session_lines(system))]
    (args.out / "sessions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    audio = audio_in(args.audio) if args.audio else None
    sets = [analyse_sessions(s.sessions, s.name, chosen, s.row["mode"], audio=audio, scores=s.scores) for s in systems]
    write_tables([*all_tables(rows), *filter(None, [names_table(sets)])], args.out)
    write_report(args.out / "report.html", rows, sets=sets, title=f"Scores: {rows[0]['test_set']}")
    print(args.out / "report.html")


def _session_lines(system: ScoredSystem) -> Iterator[str]:
    for s in system.scores:
        for figure in FIGURES:
            e = getattr(s, figure)
            if e is not None:
                counts = (e.insertions, e.deletions, e.substitutions, e.reference)
                yield "\t".join([system.name, s.id, figure, *map(str, counts)])


def _grouping(pattern: str | None) -> Callable[[str], str] | None:
    """Return session id → recording, by a regular expression."""
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise ScoreError(f"--group {pattern!r} is not a regular expression: {e}") from e

    def group(session: str) -> str:
        match = compiled.search(session)
        return session if match is None else match[1] if compiled.groups else match[0]

    return group


def _errors(score: SessionScore) -> float:
    edits = score.strictest
    return edits.rate if edits.rate is not None else float(edits.errors)
