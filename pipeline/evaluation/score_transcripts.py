"""``speakerlm-score REF HYP [HYP_B]``: score transcripts of one or two systems, print figures, write a report."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.evaluation.breakdown import Measured, breakdown, facts_of
from pipeline.evaluation.decoded_rows import registered_names
from pipeline.evaluation.figure_names import named
from pipeline.evaluation.formats import detect, files, notes, read
from pipeline.evaluation.metrics import load_metrics
from pipeline.evaluation.normalize import Profile
from pipeline.evaluation.pairing import audio_in, pair, wordless
from pipeline.evaluation.pairwise import pairs
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.report import ScoredSet, analyse_sessions, last_first, names_table, with_other, write_report
from pipeline.evaluation.result_tables import all_tables, write_tables
from pipeline.evaluation.score_result import TITLES, ScoredSystem, ScoreResult, make_result, orc_rate
from pipeline.evaluation.scores import RowLabel, cell, format_table, make_row, markdown, write_scores
from pipeline.evaluation.script import choose_profile
from pipeline.evaluation.session_scores import SessionScore, names_are_shared, score_session
from pipeline.evaluation.speaker_metrics import SpeakerScores, diarisation, has_times, score_speakers
from shards.errors import ScoreError

logger = logging.getLogger(__name__)


def score_transcripts(args: argparse.Namespace) -> int:
    """Run the command; ``args`` are those of ``speakerlm-score``."""
    if args.audio and not args.audio.is_dir():
        raise ScoreError(f"--audio {args.audio}: no such folder")
    reference = read(args.reference, args.ref_format or args.format, "reference")
    chosen, mismatch = choose_profile(args.normaliser, (r.text for r in reference), args.language)
    group = _grouping(args.group)
    sides = [(args.reference, reference)]
    if not _wordless(reference):
        sides += [(p, read(p, _format(args))) for p in _paths(args)]
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)  # before the work, not after
    if silent := [path for path, rows in sides if _wordless(rows)]:
        logger.warning("%s: turns and no words; speakers are scored, not texts", silent[0])
        return _score_speakers(args, reference)
    if mismatch:
        logger.warning("%s: %s", args.reference, mismatch)
    systems = [_score_system(args, path, reference, rows, group, chosen) for path, rows in sides[1:]]
    result = make_result(systems, chosen, args.collar)
    for warning in result.warnings:
        logger.warning("%s", warning)
    _print(result, args.per_session)
    if args.out:
        _write(result, args.out, audio_in(args.audio) if args.audio else None, args.embed)
    return 0


def _paths(args: argparse.Namespace) -> list[Path]:
    return [p for p in (args.hypothesis, args.other) if p]


def _format(args: argparse.Namespace) -> str | None:
    """Return the format of the hypotheses, if it is named."""
    return args.hyp_format or args.format


def _score_system(
    args: argparse.Namespace,
    path: Path,
    reference: Sequence[SegLstRow],
    hypothesis: Sequence[SegLstRow],
    group: Callable[[str], str] | None,
    chosen: Profile,
) -> ScoredSystem:
    kind = _format(args) or detect(path)
    read_from = files(path, kind)
    oddities = {k: v for file in read_from for k, v in notes(file, kind).items()}
    names = {k: v for file in read_from for k, v in registered_names(file).items()}
    paired = pair(reference, hypothesis, group, names, oddities)
    if oddities:
        logger.warning("%s: the text of %d sessions is not in the expected form; see the report", path, len(oddities))
    for finding in filter(None, [*paired.findings, wordless(paired.sessions, chosen)]):
        logger.warning("%s: %s", path, finding)
    by_name = args.by_name == "yes" or (args.by_name == "auto" and names_are_shared(paired.sessions))
    metrics = load_metrics(args.metric)
    scores = tuple(score_session(s, chosen, by_name=by_name, metrics=metrics) for s in paired.sessions)
    name = args.system if args.system and path == args.hypothesis else _name(path, args)
    mode = args.mode or ("match" if by_name else "no")
    label = RowLabel(name, None, args.test_set or args.reference.stem, args.split, mode, args.unit)
    row = make_row(scores, label, chosen, args.replicates)
    row["missing"] = list(paired.missing)
    speakers = score_speakers(paired.sessions, args.collar) if row["cpcer"] is not None else None
    orc = orc_rate(paired.sessions, chosen) if args.orc else None
    return ScoredSystem(name, row, paired.sessions, scores, speakers, orc)


def _wordless(rows: Sequence[SegLstRow]) -> bool:
    """Whether rows say who spoke when and nothing else, as RTTM does."""
    return any(r.timed for r in rows) and not any(r.text.strip() for r in rows)


def _score_speakers(args: argparse.Namespace, reference: Sequence[SegLstRow]) -> int:
    """Score DER and speaker counts only: one side has no words."""
    found = {}
    for path in _paths(args):
        paired = pair(reference, read(path, _format(args)))
        for finding in paired.findings:
            logger.warning("%s: %s", path, finding)
        print(name := _name(path, args))
        found[name] = (paired.sessions, score_speakers(paired.sessions, args.collar))
        _print_speakers(found[name][1], args.collar)
    if args.out:
        _write_speakers(args.out, found, args.collar)
    return 0


def _name(path: Path, args: argparse.Namespace) -> str:
    """Return a system's name: its file's, with the folder's if two systems' files have one name."""
    same = args.other is not None and args.hypothesis.stem == args.other.stem
    return f"{path.resolve().parent.name}/{path.stem}" if same else path.stem


def _write_speakers(
    out: Path, systems: Mapping[str, tuple[Sequence[SessionTranscript], SpeakerScores]], collar: float
) -> None:
    """Write speakers.json: the figures that need no words."""
    rows = []
    for name, (sessions, sums) in systems.items():
        each = {s.id: asdict(diarisation(s, collar)) for s in sessions if sums.der and has_times(s)}
        der = sums.der and {"percent": sums.der.percent, **asdict(sums.der)}
        counts = {"count_accuracy": sums.count_accuracy, "count_error": sums.count_error}
        row = {"system": name, "sessions": sums.sessions, **counts, "collar": collar}
        rows.append({**row, "der": der, "seconds_of_sessions": each})
    path = out / "speakers.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path)


def _print(result: ScoreResult, per_session: bool) -> None:
    """Print a result: rates, kinds of errors, speakers, single sessions, the comparison."""
    print(format_table(result.rows, intervals=True))
    for system in result.systems:
        print(system.name)
        print(result.errors([system]).grid())
        if system.speakers:
            _print_speakers(system.speakers, result.collar)
        if per_session:
            head = ["session", *(named(title, [result.profile.name]) for title in TITLES.values()), "reference"]
            body = [
                [s.id, *(cell(e.percent) if e else "–" for e in (s.cer, s.cpcer, s.sacer)), str(s.cer.reference)]
                for s in sorted(system.scores, key=_errors, reverse=True)
            ]
            print(markdown([head, *body]))
    if comparison := result.comparison():
        print(f"{comparison.grid()}\n{comparison.note}\n")


def _print_speakers(found: SpeakerScores, collar: float) -> None:
    """Print speaker-count accuracy and error, use of names, and DER."""
    error = f"mean absolute error {cell(found.count_error)}"
    print(f"speaker count right: {cell(found.count_accuracy)} % of {found.sessions} sessions, {error}")
    if found.registered:
        kinds = {"absent": "absent names", "generic": "spkN", "unknown": "unknown names", "unattributed": "no speaker"}
        shares = ", ".join(f"{title} {cell(found.names.percent(kind))} %" for kind, title in kinds.items())
        print(f"of {found.names.turns} hypothesis turns: {shares}")
    if found.der:
        how = f"collar {collar:g} s" if collar else "no collar"
        how += ", overlap scored" + (", coarse: the system gives starts only" if found.der.coarse else "")
        print(f"DER: {found.der.percent or 0.0:.2f} % of {found.der.reference:.1f} s ({how})")
    elif found.untimed < found.sessions:
        print(f"DER: not given, {found.untimed} of {found.sessions} sessions have turns without speaker or times")
    print()


def _write(result: ScoreResult, out: Path, audio: Callable[[str], bytes | None] | None, embed: int) -> None:
    """Write scores.json, sessions.tsv, tables and the report."""
    write_scores(result.rows, out / "scores.json")
    (out / "sessions.tsv").write_text("\n".join(result.session_lines()) + "\n", encoding="utf-8")
    sets = [_scored_set(s, result, audio, embed) for s in result.systems]
    own = [t for t in (result.comparison(), result.errors()) if t is not None]
    measured = [Measured(s.row, s.scores, tuple(facts_of(x) for x in s.sessions)) for s in result.systems]
    split = breakdown(measured)
    tables = [*all_tables(result.rows), *own, *filter(None, [names_table(sets)])]
    write_tables(tables, out, [split] if split else [])
    title = f"Scores: {result.rows[0]['test_set']}"
    write_report(
        out / "report.html", result.rows, sets=sets, title=title, tables=[result.errors()], warnings=result.warnings,
        measured=measured, compared=pairs(last_first(measured)),
    )  # fmt: skip
    print(out / "report.html")


def _scored_set(
    system: ScoredSystem, result: ScoreResult, audio: Callable[[str], bytes | None] | None, embed: int
) -> ScoredSet:
    """Return the sessions of a system for the report, each with the other system's, if there are two."""
    found = analyse_sessions(
        system.sessions, system.name, result.profile, system.row["mode"], audio=audio, embed=embed,
        scores=system.scores, collar=result.collar, speakers=system.speakers,
    )  # fmt: skip
    found = replace(found, name=system.name)
    for other in result.systems:
        if other is not system:
            by_name = other.row["sacer"] is not None
            found = with_other(found, other.name, other.sessions, result.profile, other.row["mode"], by_name)
    return found


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
