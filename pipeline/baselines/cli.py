"""`speakerlm-baseline`: baselines for SpeakerLM: cascades of diarization and recognition, and a correcting LLM.

speakerlm-baseline run s3://bucket/alimeeting-test decoded/cascade                         # packaged weights
speakerlm-baseline run … decoded/pyannote --diarizer pyannote --asr paraformer
speakerlm-baseline run meeting.wav decoded/meeting --reference meeting.stm
speakerlm-baseline correct decoded/cascade decoded/corrected --llm Qwen/Qwen2.5-7B-Instruct
speakerlm-baseline correct … --llm https://api.example.com/v1 --llm-model gpt-4.5
speakerlm-baseline e2e s3://bucket/alimeeting-test decoded/gemini --system gemini --endpoint https://api.example.com/v1
speakerlm-baseline e2e s3://bucket/alimeeting-test decoded/moss --system moss --transformers FOLDER
speakerlm-baseline pairs decoded/cascade-on-training-data pairs.jsonl
speakerlm-score decoded decoded/cascade decoded/corrected --out scores
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shards.arguments import positive
from shards.commands import outcome, require
from shards.commands.parser import Parser
from shards.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.baselines.end_to_end import Listener

EXTRAS = {"whisper": ("faster_whisper", "baselines"), "pyannote": ("pyannote.audio", "pyannote")}
AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    shape = argparse.RawDescriptionHelpFormatter
    p = Parser(prog="speakerlm-baseline", description=__doc__, formatter_class=shape)
    commands = p.add_subparsers(dest="command", required=True)
    _run_options(commands.add_parser("run", help="SD+ASR: diarization × recognition, joined by time"))
    _correct_options(commands.add_parser("correct", help="SD+ASR+LLM: move words to the right speaker"))
    _e2e_options(commands.add_parser("e2e", help="a system that hears and writes at once"))
    pairs = commands.add_parser("pairs", help="fine-tuning data for a correcting LLM, from a cascade on training data")
    pairs.add_argument("decoded", type=Path, help="folder that `run` wrote")
    pairs.add_argument("out", type=Path, help="JSON Lines of chat messages")
    return p


def _run_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("data", nargs="+", help="a packed test set (folder or s3://…), or audio files")
    p.add_argument("out", type=Path, help="folder for rows, SegLST and RTTM; an interrupted command resumes")
    p.add_argument("--reference", type=Path, help="of audio files: STM, SegLST, TextGrid …; sessions by file name")
    p.add_argument(
        "--diarizer",
        default="clustering",
        help="clustering, segmentation, 3d-speaker, pyannote, diarizen, sortformer, NAME@ID, or turns@FILE (RTTM …)",
    )
    p.add_argument("--asr", default="whisper", help="whisper, paraformer, sensevoice, qwen3-asr, or NAME@SOURCE")
    p.add_argument("--language", default="auto", help="auto, data (each clip's own), or a code such as zh")
    p.add_argument(
        "--threshold", type=float, help="of clustering, segmentation: cosine distance from which voices are two"
    )
    p.add_argument("--speakers", type=positive, help="number of people, where it is the same in all audio and known")
    p.add_argument("--limit", type=positive, help="only so many clips, in order of key")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 …")
    p.add_argument("--cache", type=Path, help="where weights out of packages are kept (default: SPEAKERLM_CACHE)")


def _correct_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("decoded", type=Path, help="folder that `run` wrote")
    p.add_argument("out", type=Path, help="folder for corrected rows; an interrupted command resumes")
    p.add_argument(
        "--llm", required=True, metavar="SOURCE",
        help="a folder, an id on Hugging Face, a .gguf file, an endpoint http(s)://…/v1, or smollm2 (for trying out)",
    )  # fmt: skip
    p.add_argument("--llm-model", help="of an endpoint: the model's name there; its key is read from OPENAI_API_KEY")
    p.add_argument("--keep-words", action="store_true", help="take only speakers from the answer, never words")
    p.add_argument("--limit", type=positive, help="only the first clips")
    p.add_argument("--normaliser", default="auto", help="of the figures that are shown at the end (default: auto)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 …")
    p.add_argument("--cache", type=Path, help="where weights out of packages are kept (default: SPEAKERLM_CACHE)")


def _e2e_options(p: argparse.ArgumentParser) -> None:
    from pipeline.baselines.systems import SYSTEMS

    p.add_argument("data", nargs="+", help="a packed test set (folder or s3://…), or audio files")
    p.add_argument("out", type=Path, help="folder for rows; an interrupted command resumes")
    p.add_argument("--system", required=True, choices=sorted(SYSTEMS), help="how it is asked and read")
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--endpoint", help="http(s)://…/v1 of OpenAI's protocol")
    where.add_argument("--transformers", metavar="SOURCE", help="a folder or an id on Hugging Face, run here")
    p.add_argument("--device", default="auto", help="of --transformers: auto, cpu, cuda, cuda:1 …")
    p.add_argument("--model", help="the model's name there (default: the system's usual one)")
    p.add_argument("--key-variable", default="OPENAI_API_KEY", help="environment variable that holds the key")
    p.add_argument("--prompt", type=Path, help="file with another prompt; {duration} is the clip's, in seconds")
    p.add_argument(
        "--known-speakers", type=Path, help="folder of 1 to 4 NAME.wav of 2 to 10 s: names instead of letters"
    )
    p.add_argument("--reference", type=Path, help="of audio files: STM, SegLST, TextGrid …; sessions by file name")
    p.add_argument("--limit", type=positive, help="only so many clips, in order of key")
    p.add_argument("--at-once", type=positive, default=4, help="clips asked about at the same time (default: 4)")
    p.add_argument("--most-tokens", type=positive, default=8192, help="of an answer of chat (default: 8192)")
    p.add_argument("--price-in", type=float, default=0.0, help="dollars for a million tokens of input")
    p.add_argument("--price-out", type=float, default=0.0, help="dollars for a million tokens of output")
    p.add_argument("--price-minute", type=float, default=0.0, help="dollars for a minute of audio")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``speakerlm-baseline``."""
    args = parser().parse_args(argv)
    work = {"run": _run, "correct": _correct, "pairs": _pairs, "e2e": _e2e}[args.command]
    return outcome("speakerlm-baseline", lambda: work(args), "run it again to resume")


def _files(args: argparse.Namespace) -> list[Path]:
    """Return the audio files; none if a packed test set is named.

    Raises:
        ConfigError: both, several test sets, or a file that does not exist.
    """
    files = [Path(d) for d in args.data if Path(d).suffix.lower() in AUDIO]
    if files and len(files) < len(args.data):
        raise ConfigError("give one packed test set, or audio files, not both")
    if not files and len(args.data) > 1:
        raise ConfigError("give one packed test set at a time")
    if missing := [str(f) for f in files if not f.is_file()]:
        raise ConfigError(f"no such file: {', '.join(missing)}")
    return files


def _run(args: argparse.Namespace) -> int:
    files = _files(args)
    for option, value in (("--asr", args.asr), ("--diarizer", args.diarizer)):
        if value.partition("@")[0] in EXTRAS:
            require(*EXTRAS[value.partition("@")[0]], f"{option} {value}")
    from pipeline.baselines.cascade import Cascade, CascadeTestSet, packed, recordings, run
    from pipeline.baselines.clustering import THRESHOLD
    from pipeline.baselines.diarizers import THRESHOLDS, load_diarizer
    from pipeline.baselines.recognisers import load_recogniser
    from pipeline.decode.generate import choose_device
    from pipeline.ranks.launch import launcher_environment

    tests: CascadeTestSet = recordings(files, args.reference) if files else packed(args.data[0])
    device = choose_device(args.device)
    usual = THRESHOLDS.get(args.diarizer.partition("@")[0], THRESHOLD)
    threshold = usual if args.threshold is None else args.threshold
    cascade = Cascade(
        load_recogniser(args.asr, device, args.cache),
        load_diarizer(args.diarizer, device, args.cache, threshold, args.speakers),
        args.language,
        f"{args.asr}, {args.diarizer}, threshold {threshold}, speakers {args.speakers}",
    )
    where = launcher_environment(dict(os.environ))
    timing = run(cascade, tests, args.out, args.limit, int(where["RANK"]), int(where["WORLD_SIZE"]))
    if timing is None:
        print("this share is done; the last process to finish merges")
        return 0
    factor = "–" if timing.real_time_factor is None else f"{timing.real_time_factor:.3f}"
    print(f"{cascade.id}: {timing.clips} clips, {timing.audio_seconds:.0f} s of audio, real-time factor {factor}")
    print(f"scores: speakerlm-score decoded {args.out}")
    print(f"DER of the diarizer: speakerlm-score {args.out}/reference.json {args.out}/turns.rttm")
    return 0


def _listener(args: argparse.Namespace) -> Listener:
    """Return the system behind an endpoint, or one that runs here."""
    from pipeline.baselines.audio_endpoint import AudioEndpoint
    from pipeline.baselines.end_to_end import known_speakers
    from pipeline.baselines.reasoner_endpoint import DialogueEndpoint
    from pipeline.baselines.systems import SYSTEMS, TRANSCRIPTIONS

    system = SYSTEMS[args.system]
    if args.known_speakers and (args.transformers or system.protocol != TRANSCRIPTIONS):
        raise ConfigError(f"--known-speakers: {args.system} is asked by chat, which takes no known speakers")
    if args.transformers:
        from pipeline.baselines.transformers_system import TransformersSystem
        from pipeline.decode.generate import choose_device

        return TransformersSystem(args.transformers, system, choose_device(args.device), args.most_tokens)
    voices = known_speakers(args.known_speakers) if args.known_speakers else {}
    key = os.environ.get(args.key_variable)
    endpoint = AudioEndpoint(args.endpoint, args.model or system.model, system, key, voices, args.most_tokens)
    return DialogueEndpoint(endpoint) if system.dialogue else endpoint


def _e2e(args: argparse.Namespace) -> int:
    from pipeline.baselines.cascade import packed, recordings
    from pipeline.baselines.end_to_end import Prices, run
    from pipeline.baselines.systems import SYSTEMS, load_prompt

    files = _files(args)
    system = SYSTEMS[args.system]
    tests = recordings(files, args.reference) if files else packed(args.data[0])
    prices = Prices(args.price_in, args.price_out, args.price_minute)
    prompt = load_prompt(system, args.prompt, bool(args.transformers))
    at_once = 1 if args.transformers else args.at_once
    timing, cost = run(args.system, _listener(args), prompt, tests, args.out, args.limit, at_once, prices)
    factor = "–" if timing.real_time_factor is None else f"{timing.real_time_factor:.3f}"
    print(
        f"{args.system}: {cost['clips']} clips, {cost['audio_seconds']:.0f} s of audio, real-time factor {factor}, "
        f"{cost['tokens_in']} tokens in, {cost['tokens_out']} out, ${cost['dollars']:.4f}, {cost['cut']} cut answers"
    )
    print(f"scores: speakerlm-score decoded {args.out}")
    return 0


def _correct(args: argparse.Namespace) -> int:
    if not (args.decoded / "no.jsonl").is_file():
        raise ConfigError(f"{args.decoded} has no no.jsonl: name a folder that `speakerlm-baseline run` wrote")
    from pipeline.baselines.llm import load_llm
    from pipeline.baselines.llm_correction import compare, correct
    from pipeline.decode.generate import choose_device
    from pipeline.evaluation.figure_names import named
    from pipeline.evaluation.scores import format_table

    key = os.environ.get("OPENAI_API_KEY")
    device = "cpu" if args.llm.startswith("http") else choose_device(args.device)
    llm = load_llm(args.llm, args.llm_model, key, device, args.cache)
    correct(args.decoded, args.out, llm, args.keep_words, args.limit, args.llm)
    rows = compare(args.decoded, args.out, args.normaliser)
    print(format_table(rows))
    if len(rows) == 2 and rows[0]["n_ref"] and rows[0]["n_ref"] == rows[1]["n_ref"]:
        change = rows[1]["cer"] - rows[0]["cer"]
        name = named("CER", [r["normaliser"] for r in rows])
        print(f"{name} {change:+.2f} points: words that the model inserted, changed or dropped")
    return 0


def _pairs(args: argparse.Namespace) -> int:
    from pipeline.baselines.llm_correction import pairs

    print(f"{pairs(args.decoded, args.out)} examples in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
