"""Train stages of SpeakerLM, under `deepspeed`, `torchrun` or `srun`, or as a single process.

    speakerlm-train tiny --stages 1-4                                     # one process
    deepspeed --module speakerlm train speakerlm-7b/stage1 output=exp/stage1
    torchrun --nproc-per-node 2 -m speakerlm train my-recipe.yaml trainer.max_steps=500

From a checkout, `deepspeed launch/train.py …` and `torchrun … launch/train.py …` are the same.

The same command resumes from the newest intact checkpoint. Exit codes: 0 done (or --max-steps reached), 85 saved after
a stop signal or at a time limit, start it again; 1 failed. Only a finished stage has OUTPUT/done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shards.commands.parser import Parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="speakerlm-train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "recipe", type=Path, help="YAML file, or name of a recipe of the project (--list); with --stages their folder"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the recipe's")
    parser.add_argument(
        "--stages",
        metavar="A-B",
        help="train these stages of the folder in order, as 1-4 or R1-R3; finished ones are skipped",
    )
    parser.add_argument("--init-from", metavar="RUN", help="start from this run's weights; any stage, finished or not")
    parser.add_argument(
        "--max-steps", type=int, metavar="N",
        help="stop after step N: saved, but not done. The learning rate schedule does not change (trainer.max_steps)",
    )  # fmt: skip
    flag = partial(parser.add_argument, dest="flags", action="append_const", default=[])
    flag(
        "--accept-dataset-change", const="data.accept_dataset_change=true",
        help="resume with other datasets; one that changed or was removed must be between epochs (data.align_epochs)",
    )  # fmt: skip
    flag(
        "--overfit-one-batch", const="trainer.overfit_one_batch=true",
        help="repeat the first global step: the loss must go to 0, else model or data have a fault",
    )  # fmt: skip
    flag("--save-bad-batch", const="trainer.save_bad_batches=true", help="write batches of skipped steps to OUTPUT/bad")
    parser.add_argument(
        "--dry-run", action="store_true",
        help="print the resolved recipe and DeepSpeed configuration; reads neither weights nor data",
    )  # fmt: skip
    parser.add_argument("--list", action=_List, nargs=0, help="show the recipes of the project and exit")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    return parser.parse_intermixed_args(arguments)


class _List(argparse.Action):
    """Prints the project's recipes."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from pipeline.recipe.shipped import shipped_recipes

        recipes = list(shipped_recipes())
        width = max(len(name) for name, _ in recipes)
        for name, text in recipes:
            print(f"{name:{width}}  {text}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return the exit code."""
    args = parse(arguments)
    from pipeline.recipe.load import dump_recipe, load_recipes
    from shards.errors import SpeakerLMError

    try:
        recipes = load_recipes(args.recipe, args.stages, args.overrides + args.flags, args.init_from)
        for recipe in recipes if args.dry_run else ():
            from pipeline.recipe.deepspeed import describe, resolve_deepspeed

            print(describe(dump_recipe(recipe), resolve_deepspeed(recipe, int(os.environ.get("WORLD_SIZE", "1")))))
        from pipeline.train.monitors import check_packages

        for recipe in recipes:
            check_packages(recipe.monitor)
    except SpeakerLMError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return 1
    if args.dry_run:
        return 0
    from pipeline.ranks.memory import use_expandable_segments

    use_expandable_segments()
    from pipeline.train.run_stage import run_stages

    return run_stages(recipes, stop_after=args.max_steps)


if __name__ == "__main__":
    sys.exit(main())
