"""``speakerlm-shards COMMAND``: dispatch to modules with ``add_arguments(parser)`` and ``run(args)``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from shards.commands import outcome
from shards.commands.parser import Parser, choose_command

COMMANDS = {
    "prepare": ("shards.prepare", "write the manifests of a corpus"),
    "pseudo-speakers": (
        "shards.simulation.pseudo_speakers",
        "add speed-perturbed copies of recordings as new speakers",
    ),
    "clips": ("shards.manifests.clips", "cut long recordings into clips at pauses"),
    "statistics": ("shards.simulation.turn_statistics", "estimate turn-taking statistics of a corpus, for simulate"),
    "simulate": ("shards.simulation.simulate", "mix conversations from single-speaker recordings"),
    "pack": ("shards.packing.pack", "pack a manifest into shards"),
    "embed": ("shards.packing.embed", "add speaker embeddings of another extractor to packed shards"),
    "overlap": ("shards.dataset.overlap", "report speakers, sessions and audio that training and test data share"),
    "verify": ("shards.dataset.verify", "verify checksums, counts and durations of a dataset"),
    "view": ("shards.dataset.view", "write a web page with the audio and targets of samples"),
    "card": ("shards.dataset.card", "write a dataset card (README.md) for a dataset"),
    "info": ("shards.dataset.info", "summarize a dataset"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 1 for expected errors, printed without a traceback."""
    parser = Parser(
        prog="speakerlm-shards",
        description="Prepare corpora and pack them into training shards.",
        epilog="commands:\n" + "\n".join(f"  {name:17}{text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below; see COMMAND --help"
    )
    command, rest = choose_command(parser, sys.argv[1:] if argv is None else argv, COMMANDS)
    module_name, text = COMMANDS[command]
    module = importlib.import_module(module_name)
    command_parser = Parser(prog=f"speakerlm-shards {command}", description=text)
    module.add_arguments(command_parser)
    args = command_parser.parse_args(rest)
    return outcome(f"speakerlm-shards {command}", lambda: int(module.run(args)), "run it again to resume")


if __name__ == "__main__":
    raise SystemExit(main())
