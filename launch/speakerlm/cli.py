"""``speakerlm COMMAND``: all tools of the project under one name. ``speakerlm-COMMAND`` is the same."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from functools import partial

from shards.commands.parser import Parser, choose_command

TOOLS = {
    "shards": ("shards.cli", "prepare corpora and pack them into training shards"),
    "train": ("pipeline.train.cli", "train stages of SpeakerLM"),
    "preflight": ("pipeline.preflight.cli", "estimate memory, time and cost of a recipe"),
    "node-check": ("pipeline.ranks.nodecheck", "check the nodes of a job, before its run"),
    "curves": ("pipeline.evaluation.curves", "draw the curves of runs"),
    "decode": ("pipeline.decode.test_set", "decode a packed test set with a finished run"),
    "score": ("pipeline.evaluation.cli", "score transcripts: CER, cpCER, saCER, DER"),
    "export": ("pipeline.export.cli", "write a finished run as a Hugging Face folder"),
    "transcribe": ("pipeline.transcribe.cli", "transcribe recordings with the names of enrolled people"),
    "serve": ("pipeline.serve.cli", "transcribe for clients of OpenAI's API"),
    "baseline": ("pipeline.baselines.cli", "run cascades of diarization, recognition and a correcting LLM"),
    "standins": ("pipeline.standins.__main__", "make the tiny encoder and LLM of the tiny recipe"),
}
EPILOG = """\
examples:
  speakerlm shards pack mine/manifests mine/data
  speakerlm train --list
  speakerlm train tiny --stages 1-4 root=mine

On several processes: deepspeed --module speakerlm train …, or torchrun --nproc-per-node 2 -m speakerlm train …
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a tool and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].startswith("--local_rank"):  # the deepspeed launcher puts it before the program's arguments
        words = [*words[1:], words[0]]
    parser = Parser(
        prog="speakerlm",
        description="Train, score and use SpeakerLM, which hears a meeting and writes who said what.",
        epilog="commands:\n" + "\n".join(f"  {name:12}{text}" for name, (_, text) in TOOLS.items()) + "\n\n" + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", choices=TOOLS, metavar="COMMAND", help="one of the commands below; see COMMAND --help"
    )
    command, rest = choose_command(parser, words, TOOLS)
    return run(command, rest)


def run(tool: str, argv: Sequence[str] | None = None) -> int:
    """Run one tool with its arguments, by default the process's."""
    return int(importlib.import_module(TOOLS[tool][0]).main(sys.argv[1:] if argv is None else list(argv)))


baseline, curves, decode, export, preflight = (
    partial(run, name) for name in ("baseline", "curves", "decode", "export", "preflight")
)
score, serve, shards, train, transcribe = (
    partial(run, name) for name in ("score", "serve", "shards", "train", "transcribe")
)
