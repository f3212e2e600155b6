"""``speakerlm-score``: score anyone's transcripts, score decoded runs, convert between formats.

Nothing heavy is imported before it is needed, and torch never.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.arguments import natural, non_negative
from shards.commands import outcome
from shards.errors import ScoreError

if TYPE_CHECKING:
    from pipeline.evaluation.normalize import Profile
    from pipeline.evaluation.records import SegLstRow, SessionTranscript
    from pipeline.evaluation.session_scores import SessionScore

PROFILES = "m2met, paper-zh, en, mixed or none; +nofiller drops hesitations"
COMMANDS = ("decoded", "convert")

USAGE = """\
speakerlm-score REF HYP [HYP_B] [options]     score transcripts; with HYP_B compare two systems
speakerlm-score decoded FOLDER... --out DIR   score what speakerlm-decode wrote: tables and a report
speakerlm-score convert IN OUT --to FORMAT    SegLST, STM, RTTM, SRT, VTT, JSON or TSV, a file a session"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments and arguments[0] in COMMANDS else "score"
    parser = {"score": _score_parser, "decoded": _decoded_parser, "convert": _convert_parser}[command]()
    args = parser.parse_args(arguments[1:] if command != "score" else arguments)
    run = {"score": _score, "decoded": _decoded, "convert": _convert}[command]
    return outcome("speakerlm-score", lambda: run(args))


def _score_parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="speakerlm-score",
        usage=USAGE,
        description="Reads SegLST, STM, RTTM, TextGrid, a Kaldi folder (text, utt2spk, segments), JSON Lines and raw "
        "model output (NAME: text). Prints CER, cpCER, saCER and what else the input has something for.",
    )
    p.add_argument("reference", type=Path)
    p.add_argument("hypothesis", type=Path)
    p.add_argument("other", type=Path, nargs="?", metavar="HYP_B", help="a second system, compared with the first")
    p.add_argument("--ref-format", help="if it cannot be told from the name")
    p.add_argument("--hyp-format", help="if it cannot be told from the name")
    p.add_argument("--normaliser", default="paper-zh", help=f"{PROFILES} (default: paper-zh)")
    p.add_argument(
        "--by-name",
        choices=("auto", "yes", "no"),
        default="auto",
        help="saCER; auto: where hypothesis and reference share names (default)",
    )
    p.add_argument("--orc", action="store_true", help="ORC-CER too: slow for many speakers, greedy for long sessions")
    p.add_argument(
        "--collar",
        type=non_negative,
        default=0.0,
        help="DER: seconds forgiven each side of a boundary (M2MeT: 0.25)",
    )
    p.add_argument(
        "--group",
        metavar="REGEX",
        help="recording inside a session's id, for intervals over clips; its first group, or all of it",
    )
    p.add_argument("--replicates", type=natural, default=1000, help="of the bootstrap; 0: no intervals (default: 1000)")
    p.add_argument("--test-set", help="name of the test set, to stand beside the paper's rows (alimeeting, aishell4 …)")
    p.add_argument("--split", default="?", help="split of the test set, for the tables")
    p.add_argument("--unit", default="session", help="what a session of the input is: session or clip")
    p.add_argument("--mode", choices=("asr", "no", "match", "over"), help="registration mode, for the tables")
    p.add_argument("--system", help="name of the system, for the tables (default: the hypothesis's file name)")
    p.add_argument("--per-session", action="store_true", help="print a line for every session, worst first")
    p.add_argument(
        "--out",
        type=Path,
        help="folder for scores.json, sessions.tsv, tables and report.html, or, "
        "where one side has no words, speakers.json",
    )
    p.add_argument("--audio", type=Path, help="folder of SESSION.flac; the worst are embedded in the report")
    return p


def _decoded_parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="speakerlm-score decoded", description="Score folders that speakerlm-decode wrote."
    )
    p.add_argument("decoded", type=Path, nargs="+", help="folders, one a run and test set")
    p.add_argument("--out", type=Path, required=True, help="folder for scores.json, tables and report.html")
    p.add_argument("--runs", type=Path, nargs="*", default=[], help="run folders, for their loss curves")
    p.add_argument("--datasets", nargs="*", default=[], help="packed test sets, to embed audio of the worst clips")
    p.add_argument("--normaliser", default="paper-zh", help=f"{PROFILES} (default: paper-zh)")
    p.add_argument("--title", default="Scores", help="of the report")
    p.add_argument("--show", type=natural, default=10, help="clips of each mode shown with alignment (default: 10)")
    return p


def _convert_parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="speakerlm-score convert", description="Convert transcripts, a file a session.")
    p.add_argument("source", type=Path)
    p.add_argument("out", type=Path, help="folder")
    p.add_argument("--to", required=True, help="seglst, stm, rttm, srt, vtt, json or tsv")
    p.add_argument("--format", help="of the source, if it cannot be told from its name")
    return p


def _convert(args: argparse.Namespace) -> int:
    from pipeline.evaluation.formats import read, write

    for path in write(read(args.source, args.format), args.out, args.to):
        print(path)
    return 0


def _decoded(args: argparse.Namespace) -> int:
    from pipeline.evaluation.publish import dataset_audio, publish
    from pipeline.evaluation.scores import format_table

    if missing := [str(run) for run in args.runs if not (run / "train.jsonl").is_file()]:
        raise ScoreError(f"--runs: no train.jsonl in {', '.join(missing)}; name the output folders of runs")
    audio = dataset_audio(args.datasets) if args.datasets else None
    rows = publish(args.decoded, args.out, args.runs, args.title, args.normaliser, args.show, audio)
    print(format_table(rows))
    print(f"{args.out / 'report.html'}")
    return 0


def _score(args: argparse.Namespace) -> int:
    from pipeline.evaluation.decoded_rows import output_notes, registered_names
    from pipeline.evaluation.formats import read
    from pipeline.evaluation.normalize import profile
    from pipeline.evaluation.pairing import pair
    from pipeline.evaluation.scores import RowLabel, format_table, make_row
    from pipeline.evaluation.session_scores import names_are_shared, score_session

    chosen = profile(args.normaliser)
    if args.audio and not args.audio.is_dir():
        raise ScoreError(f"--audio {args.audio}: no such folder")
    reference = read(args.reference, args.ref_format, "reference")
    group = _grouping(args.group)
    if _wordless(reference):
        return _score_speakers(args, reference)
    systems: list[tuple[str, tuple[SessionTranscript, ...], list[SessionScore]]] = []
    rows = []
    for path in [p for p in (args.hypothesis, args.other) if p]:
        hypothesis = read(path, args.hyp_format)
        if _wordless(hypothesis):
            return _score_speakers(args, reference)
        odd = output_notes(path)
        paired = pair(reference, hypothesis, group, registered_names(path), odd)
        if odd:
            print(f"{path}: the text of {len(odd)} sessions is not as asked for; see the report", file=sys.stderr)
        for finding in paired.findings:
            print(f"{path}: {finding}", file=sys.stderr)
        by_name = args.by_name == "yes" or (args.by_name == "auto" and names_are_shared(paired.sessions))
        scores = [score_session(s, chosen, by_name=by_name) for s in paired.sessions]
        name = args.system if args.system and path == args.hypothesis else _name(path, args)
        mode = args.mode or ("match" if by_name else "no")
        label = RowLabel(name, None, args.test_set or args.reference.stem, args.split, mode, args.unit)
        rows.append(make_row(scores, label, chosen, args.replicates))
        systems.append((name, paired.sessions, scores))
    print(format_table(rows, intervals=True))
    for name, sessions, scores in systems:
        _print_details(name, sessions, scores, args, chosen)
    if len(systems) == 2:
        _print_comparison(systems[0][2], systems[1][2])
    if args.out:
        _write(args, rows, systems, chosen)
    return 0


def _wordless(segments: Sequence[SegLstRow]) -> bool:
    """Whether this says who spoke when and nothing else, as RTTM does."""
    return any(s.timed for s in segments) and not any(s.text.strip() for s in segments)


def _score_speakers(args: argparse.Namespace, reference: Sequence[SegLstRow]) -> int:
    """One side has no words: DER and speaker counts only."""
    from pipeline.evaluation.formats import read
    from pipeline.evaluation.pairing import pair

    print("one side has no words: speakers are scored, not texts", file=sys.stderr)
    found = {}
    for path in [p for p in (args.hypothesis, args.other) if p]:
        paired = pair(reference, read(path, args.hyp_format))
        for finding in paired.findings:
            print(f"{path}: {finding}", file=sys.stderr)
        print(name := _name(path, args))
        _print_speakers(paired.sessions, args.collar)
        found[name] = paired.sessions
    if args.out:
        _write_speakers(args.out, found, args.collar)
    return 0


def _name(path: Path, args: argparse.Namespace) -> str:
    """A system's name: its file's, with the folder's where two systems' files have one name."""
    same = args.other is not None and args.hypothesis.stem == args.other.stem
    return f"{path.resolve().parent.name}/{path.stem}" if same else path.stem


def _write_speakers(out: Path, systems: Mapping[str, Sequence[SessionTranscript]], collar: float) -> None:
    """speakers.json: what is scored where one side has no words."""
    import json
    from dataclasses import asdict

    from pipeline.evaluation.speaker_metrics import diarisation, has_times, score_speakers

    rows = []
    for name, sessions in systems.items():
        total = score_speakers(sessions, collar)
        each = {s.id: asdict(diarisation(s, collar)) for s in sessions if total.der and has_times(s)}
        der = total.der and {"percent": total.der.percent, **asdict(total.der)}
        row = {"system": name, "sessions": total.sessions, "count_accuracy": total.count_accuracy, "collar": collar}
        rows.append({**row, "der": der, "seconds_of_sessions": each})
    out.mkdir(parents=True, exist_ok=True)
    path = out / "speakers.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path)


def _print_speakers(sessions: Sequence[SessionTranscript], collar: float) -> None:
    """Speaker count, use of names, and DER."""
    from pipeline.evaluation.scores import cell
    from pipeline.evaluation.speaker_metrics import score_speakers

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


def _print_details(
    name: str,
    sessions: Sequence[SessionTranscript],
    scores: Sequence[SessionScore],
    args: argparse.Namespace,
    chosen: Profile,
) -> None:
    """What does not fit into a row: kinds of errors, ORC-CER, speakers, DER, single sessions."""
    from pipeline.evaluation.scores import cell, markdown
    from pipeline.evaluation.session_scores import total

    sums = total(scores)
    lines = [[name, "%", "insertions", "deletions", "substitutions", f"reference ({chosen.token}s)"]]
    figures = [("CER", sums.cer), ("cpCER", sums.cpcer), ("saCER", sums.sacer)]
    if args.orc:
        orc, exact = _orc(sessions, chosen)
        figures.append(("ORC-CER" if exact else "ORC-CER (greedy: at most)", orc))
    for title, e in figures:
        if e is not None:
            counts = [str(n) for n in (e.insertions, e.deletions, e.substitutions, e.reference)]
            lines.append([title, cell(e.percent), *counts])
    print(markdown(lines))
    if sums.cpcer is not None:
        _print_speakers(sessions, args.collar)
    if args.per_session:
        worst = sorted(scores, key=_errors, reverse=True)
        head = ["session", "CER", "cpCER", "saCER", "reference"]
        body = [
            [s.id, *(cell(e.percent) if e else "–" for e in (s.cer, s.cpcer, s.sacer)), str(s.cer.reference)]
            for s in worst
        ]
        print(markdown([head, *body]))


def _orc(sessions: Sequence[SessionTranscript], chosen: Profile) -> tuple[Any, bool]:
    from pipeline.evaluation.edit_distance import Edits
    from pipeline.evaluation.session_scores import Tokens, orc_edits, streams

    split = Tokens(chosen)
    found = [orc_edits(split.segments(s.reference), streams(split.segments(s.hypothesis))) for s in sessions]
    return sum((e for e, _ in found), Edits()), all(exact for _, exact in found)


def _print_comparison(a: Sequence[SessionScore], b: Sequence[SessionScore]) -> None:
    """Paired bootstrap of the two systems, for every figure that both have."""
    from pipeline.evaluation.bootstrap import FIGURES, compare
    from pipeline.evaluation.scores import markdown

    if len({s.group for s in a}) < 2:
        print("no comparison: it needs at least two recordings", file=sys.stderr)
        return
    lines = [["B − A, points", "difference", "95 % interval", "p", "recordings"]]
    for figure, title in zip(FIGURES, ("CER", "cpCER", "saCER"), strict=True):
        if all(getattr(s, figure) is not None for s in (*a, *b)):
            c = compare(a, b, figure)
            p = f"{c.p:.4f}" if c.p else "< 0.0001"  # 10,000 replicates cannot say more
            lines.append([title, f"{c.difference:+.2f}", f"[{c.low:+.2f}, {c.high:+.2f}]", p, str(c.groups)])
    print(markdown(lines))


def _write(args: argparse.Namespace, rows: list[Any], systems: Sequence[Any], chosen: Profile) -> None:
    """scores.json, sessions.tsv, tables and the report."""
    from pipeline.evaluation.pairing import audio_in
    from pipeline.evaluation.report import analyse_sessions, names_table, write_report
    from pipeline.evaluation.result_tables import all_tables, write_tables
    from pipeline.evaluation.scores import write_scores

    args.out.mkdir(parents=True, exist_ok=True)
    write_scores(rows, args.out / "scores.json")
    lines = ["system\tsession\tfigure\tinsertions\tdeletions\tsubstitutions\treference"]
    sets = []
    for row, (name, sessions, scores) in zip(rows, systems, strict=True):
        for s in scores:
            for figure in ("cer", "cpcer", "sacer"):
                e = getattr(s, figure)
                if e is not None:
                    lines.append(
                        f"{name}\t{s.id}\t{figure}\t{e.insertions}\t{e.deletions}\t{e.substitutions}\t{e.reference}"
                    )
        audio = audio_in(args.audio) if args.audio else None
        sets.append(analyse_sessions(sessions, name, chosen, row["mode"], row["mode"] == "match", audio=audio))
    (args.out / "sessions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_tables([*all_tables(rows), *filter(None, [names_table(sets)])], args.out)
    write_report(args.out / "report.html", rows, sets=sets, title=f"Scores: {rows[0]['test_set']}")
    print(args.out / "report.html")


def _grouping(pattern: str | None) -> Callable[[str], str] | None:
    """Session id → recording, by a regular expression."""
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise ScoreError(f"--group {pattern!r} is no regular expression: {e}") from e

    def group(session: str) -> str:
        match = compiled.search(session)
        return session if match is None else match[1] if compiled.groups else match[0]

    return group


def _errors(score: SessionScore) -> float:
    edits = score.sacer or score.cpcer or score.cer
    return edits.rate if edits.rate is not None else float(edits.errors)


if __name__ == "__main__":
    sys.exit(main())
