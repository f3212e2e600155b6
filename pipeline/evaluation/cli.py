"""``speakerlm-score``: score transcripts, score decoded runs, convert between formats.

Heavy packages are imported where they are used; torch is never imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shards.arguments import natural, non_negative
from shards.commands import outcome
from shards.commands.parser import Parser, enter_command, typed
from shards.errors import ScoreError

PROFILES = (
    "auto (by --language, else by the script of the reference: paper-zh, en or mixed), m2met, paper-zh, en, mixed or "
    "none; +nofiller drops hesitations (default: auto)"
)
COMMANDS = ("decoded", "convert")

USAGE = """\
speakerlm-score REF HYP [HYP_B] [options]     score transcripts; with HYP_B compare two systems
speakerlm-score decoded FOLDER... --out DIR   score what speakerlm-decode wrote: tables and a report
speakerlm-score convert IN OUT --to FORMAT    SegLST, STM, RTTM, SRT, VTT, JSON or TSV, one file per session"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = typed(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments and arguments[0] in COMMANDS else "score"
    parser = {"score": _score_parser, "decoded": _decoded_parser, "convert": _convert_parser}[command]()
    if command != "score":
        arguments = arguments[1:]
        enter_command()
    args = parser.parse_args(arguments)
    run = {"score": _score, "decoded": _decoded, "convert": _convert}[command]
    return outcome("speakerlm-score", lambda: run(args))


def _score_parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="speakerlm-score",
        usage=USAGE,
        description="Reads SegLST, STM, RTTM, SRT, VTT, TSV, JSON, TextGrid, a Kaldi folder (text, utt2spk, segments), "
        "JSON Lines, raw model output (NAME: text) and what speakerlm-transcribe writes, files or folders. "
        "Prints CER, cpCER, saCER, and DER and other figures if the input allows them.",
    )
    p.add_argument("reference", type=Path)
    p.add_argument("hypothesis", type=Path)
    p.add_argument("other", type=Path, nargs="?", metavar="HYP_B", help="a second system, compared with the first")
    p.add_argument("--format", help="format of both sides (default: by suffix)")
    p.add_argument("--ref-format", help="format of the reference (default: by its suffix)")
    p.add_argument("--hyp-format", help="format of the hypotheses (default: by their suffix)")
    _add_normaliser(p)
    p.add_argument(
        "--by-name",
        choices=("auto", "yes", "no"),
        default="auto",
        help="compute saCER; auto: only if hypothesis and reference share names (default)",
    )
    p.add_argument(
        "--orc",
        action="store_true",
        help="compute ORC-CER: slow for many speakers; approximate (greedy) for long sessions",
    )
    _add_metric(p)
    p.add_argument(
        "--collar",
        type=non_negative,
        default=0.0,
        help="for DER: seconds on each side of a boundary that are not scored (M2MeT: 0.25)",
    )
    p.add_argument(
        "--group",
        metavar="REGEX",
        help="finds the recording in a session's id, for intervals over clips: the first group, or the whole match",
    )
    p.add_argument(
        "--replicates", type=natural, default=1000, help="bootstrap replicates; 0: no intervals (default: 1000)"
    )
    p.add_argument("--test-set", help="name of the test set, to compare with the paper's rows (alimeeting, aishell4 …)")
    p.add_argument("--split", default="?", help="split of the test set, for the tables")
    p.add_argument("--unit", default="session", help="what one session of the input is: session or clip")
    p.add_argument("--mode", choices=("asr", "no", "match", "over"), help="registration mode, for the tables")
    p.add_argument("--system", help="name of the system, for the tables (default: the hypothesis's file name)")
    p.add_argument("--per-session", action="store_true", help="print one line per session, the worst first")
    p.add_argument(
        "--out",
        type=Path,
        help="folder for scores.json, sessions.tsv, tables and report.html, or for speakers.json if there are no words",
    )
    p.add_argument(
        "--audio",
        type=Path,
        help="folder of SESSION.flac files; those of the worst sessions are embedded in the report",
    )
    _add_embed(p, "sessions", 5)
    return p


def _decoded_parser() -> argparse.ArgumentParser:
    p = Parser(prog="speakerlm-score decoded", description="Score folders that speakerlm-decode wrote.")
    p.add_argument("decoded", type=Path, nargs="+", help="folders, one per run and test set")
    p.add_argument("--out", type=Path, required=True, help="folder for scores.json, tables and report.html")
    p.add_argument("--runs", type=Path, nargs="*", default=[], help="run folders, for their loss curves")
    p.add_argument("--datasets", nargs="*", default=[], help="packed test sets, to embed audio of the worst clips")
    _add_normaliser(p)
    _add_metric(p)
    p.add_argument("--title", default="Scores", help="title of the report")
    p.add_argument("--show", type=natural, default=10, help="clips of each mode shown with alignment (default: 10)")
    _add_embed(p, "clips of each mode", 2)
    return p


def _convert_parser() -> argparse.ArgumentParser:
    p = Parser(prog="speakerlm-score convert", description="Convert transcripts, one file per session.")
    p.add_argument("source", type=Path)
    p.add_argument("out", type=Path, help="folder")
    p.add_argument("--to", required=True, help="seglst, stm, rttm, srt, vtt, json or tsv")
    p.add_argument("--format", help="format of the source (default: by its suffix)")
    return p


def _add_normaliser(p: argparse.ArgumentParser) -> None:
    p.add_argument("--normaliser", default="auto", help=PROFILES)
    p.add_argument("--language", metavar="CODE", help="language of the reference, such as zh or en; chooses for auto")


def _add_embed(p: argparse.ArgumentParser, units: str, default: int) -> None:
    what = f"worst {units} whose audio is embedded in the report, about 1 MB per minute (default: {default})"
    p.add_argument("--embed", type=natural, default=default, metavar="N", help=what)


def _add_metric(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="score this metric too, such as orc-cer, or one of an installed package; may be repeated",
    )


def _score(args: argparse.Namespace) -> int:
    from pipeline.evaluation.score_transcripts import score_transcripts

    return score_transcripts(args)


def _convert(args: argparse.Namespace) -> int:
    from pipeline.evaluation.formats import read, write

    for path in write(read(args.source, args.format), args.out, args.to):
        print(path)
    return 0


def _decoded(args: argparse.Namespace) -> int:
    from pipeline.evaluation.score_decoded import dataset_audio, publish
    from pipeline.evaluation.scores import format_table

    if missing := [str(run) for run in args.runs if not (run / "train.jsonl").is_file()]:
        raise ScoreError(f"--runs: no train.jsonl in {', '.join(missing)}; name the output folders of runs")
    audio = dataset_audio(args.datasets) if args.datasets else None
    rows = publish(
        args.decoded,
        args.out,
        args.runs,
        args.title,
        args.normaliser,
        args.show,
        audio,
        args.embed,
        metrics=args.metric,
        language=args.language,
    )
    print(format_table(rows))
    print(f"{args.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
