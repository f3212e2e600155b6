"""``python -m pipeline.standins DATA OUT``: make tokenizer, encoder and LLM of the tiny recipes."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from pipeline.standins.make_part import make_part
from pipeline.standins.train_encoder import train_encoder
from pipeline.standins.train_llm import train_llm
from pipeline.standins.words import words_by_language, write_tokenizer
from shards.commands.parser import Parser
from shards.errors import SpeakerLMError
from shards.workers import process_pool

PARTS = ("encoder", "llm")


def main(argv: Sequence[str] | None = None) -> int:
    """Make tokenizer, encoder and LLM, the latter two in parallel, one core each. OUT/PART.done proves each."""
    args = _parser().parse_args(argv)
    try:
        _make(args)
    except SpeakerLMError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except BrokenProcessPool:
        print("error: a process of stage 0 was killed, perhaps out of memory; run it again", file=sys.stderr)
        return 1
    return 0


def _make(args: Namespace) -> None:
    """Make the tokenizer, and the part that was asked for or both."""
    words = words_by_language(args.data)
    write_tokenizer(args.out / "llm", words)
    longest = (args.turns, args.words)
    work: dict[str, tuple[Any, ...]] = {
        "encoder": (train_encoder, args.data, args.out, args.encoder_steps, args.seed),
        "llm": (train_llm, args.out, words, args.llm_steps, args.seed, *longest, args.no_share),
    }
    if args.only:
        make_part(args.out / f"{args.only}.done", *work[args.only])
        return
    with process_pool(len(PARTS)) as pool:
        jobs = [pool.submit(make_part, args.out / f"{part}.done", *work[part]) for part in PARTS]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            for process in active_children():  # the other job would take minutes more
                process.terminate()
            raise


def _parser() -> Parser:
    parser = Parser(prog="speakerlm standins", description="Make tiny stand-ins for SenseVoice and Qwen2.5 (stage 0).")
    add = parser.add_argument
    add("data", type=Path, help="folder with the packed datasets asr and, for the encoder, simulated")
    add("out", type=Path, help="folder for encoder/ and llm/")
    add("--only", choices=PARTS, help="make one of the two (and the tokenizer, which both need)")
    add("--encoder-steps", type=int, default=1000)
    add("--llm-steps", type=int, default=2000)
    add("--turns", type=int, default=4, help="most turns of the LLM's synthetic conversations (4)")
    add("--words", type=int, default=3, help="most words of a synthetic turn (3)")
    add("--no-share", type=float, default=1 / 3, help="share of its conversations without registration (1/3)")
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
