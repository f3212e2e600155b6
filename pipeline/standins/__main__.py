"""``python -m pipeline.standins DATA OUT``: make tokenizer, encoder and LLM of the tiny recipes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from pathlib import Path

from pipeline.standins.train_encoder import train_encoder
from pipeline.standins.train_llm import train_llm
from pipeline.standins.words import words_by_language, write_tokenizer
from shards.commands.parser import Parser
from shards.errors import SpeakerLMError
from shards.workers import process_pool


def main(argv: Sequence[str] | None = None) -> int:
    """Make tokenizer, encoder and LLM, the latter two in parallel, one core each."""
    parser = Parser(prog="speakerlm standins", description="Make tiny stand-ins for SenseVoice and Qwen2.5 (stage 0).")
    parser.add_argument("data", type=Path, help="folder with the packed datasets asr and simulated")
    parser.add_argument("out", type=Path, help="folder for encoder/ and llm/")
    parser.add_argument("--encoder-steps", type=int, default=1000)
    parser.add_argument("--llm-steps", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=4, help="most turns of the LLM's synthetic conversations (4)")
    parser.add_argument("--words", type=int, default=3, help="most words of a synthetic turn (3)")
    parser.add_argument(
        "--no-share", type=float, default=1 / 3, help="share of its conversations without registration (1/3)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        words = words_by_language(args.data)
        write_tokenizer(args.out / "llm", words)
    except SpeakerLMError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    try:
        with process_pool(2) as pool:
            encoder = pool.submit(train_encoder, args.data, args.out, args.encoder_steps, args.seed)
            longest = (args.turns, args.words)
            llm = pool.submit(train_llm, args.out, words, args.llm_steps, args.seed, *longest, args.no_share)
            try:
                for job in as_completed([encoder, llm]):
                    job.result()
            except BaseException:
                for process in active_children():  # the other job would take minutes more
                    process.terminate()
                raise
    except BrokenProcessPool:
        print("error: a process of stage 0 was killed, perhaps out of memory; run it again", file=sys.stderr)
        return 1
    (args.out / "done").write_text(json.dumps({"encoder_steps": args.encoder_steps, "llm_steps": args.llm_steps}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
