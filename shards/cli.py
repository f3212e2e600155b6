"""``speakerlm-shards COMMAND``: a table of commands, each a module with ``add_arguments(parser)`` and ``run(args)``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from shards.commands import outcome

COMMANDS = {
    "prepare": ("shards.prepare", "a corpus on disk, or packaged speech, as a manifest"),
    "pseudo-speakers": (
        "shards.simulation.pseudo_speakers",
        "recordings at other speeds, as new speakers",
    ),
    "clips": ("shards.manifests.clips", "long recordings cut into clips"),
    "statistics": ("shards.simulation.turn_statistics", "how people take turns in a corpus, for simulate"),
    "simulate": ("shards.simulation.simulate", "conversations mixed from single-speaker recordings"),
    "pack": ("shards.packing.pack", "a manifest packed into shards"),
    "embed": ("shards.packing.embed", "speaker vectors of another extractor beside packed shards"),
    "overlap": ("shards.dataset.overlap", "what training and test data share and must not"),
    "verify": ("shards.dataset.verify", "every byte, count and duration of a dataset checked"),
    "view": ("shards.dataset.view", "a shard as a web page to hear and look at"),
    "info": ("shards.dataset.info", "what a dataset holds"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Errors made on purpose are printed without a traceback and end in exit code 1."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="speakerlm-shards",
        description="From corpora to training shards.",
        epilog="commands:\n" + "\n".join(f"  {name:17}{text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below; COMMAND --help")
    command = parser.parse_args(argv[:1]).command
    module_name, text = COMMANDS[command]
    module = importlib.import_module(module_name)
    own = argparse.ArgumentParser(prog=f"speakerlm-shards {command}", description=text)
    module.add_arguments(own)
    args = own.parse_args(argv[1:])
    return outcome(f"speakerlm-shards {command}", lambda: int(module.run(args)), "run it again to go on")


if __name__ == "__main__":
    raise SystemExit(main())
