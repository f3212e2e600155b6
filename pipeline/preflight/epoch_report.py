"""Report of a recipe's first global steps: fill, padding, imbalance, sessions, modes.

python -m pipeline.preflight.epoch_report launch/recipes/speakerlm-7b/stage4.yaml --ranks 64
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.dialogue_lengths import counted_kinds
from pipeline.data.index_rows import DatasetSource
from pipeline.data.lengths import Tokenizer, build_lengths
from pipeline.data.plan import Plan
from pipeline.data.plan_report import flops_of, plan_report
from pipeline.data.planned import PlanSettings
from pipeline.data.token_counter import TokenCounter
from pipeline.flops import Meter, Sizes
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import Recipe
from pipeline.stages import STAGES, stage_of
from shards.commands.parser import Parser
from shards.dataset.dataset import open_dataset
from shards.errors import SpeakerLMError


def open_plan(recipe: Recipe, tokenizer: Tokenizer) -> Plan:
    """Open the training plan of a recipe, at its start. Builds token lengths that are missing."""
    data = recipe.data
    cache = Path(data.lengths_cache) if data.lengths_cache else None
    datasets = [open_dataset(d.path, d.extractor) for d in data.train]
    tasks, terms = STAGES[recipe.stage].tasks, data.context.share > 0
    for dataset in datasets:
        for kind in counted_kinds(tasks, terms):
            build_lengths(dataset, tokenizer, cache, workers=len(os.sched_getaffinity(0)), kind=kind)
    sources = [DatasetSource(d, tokenizer.hash, cache, bool(tasks), terms) for d in datasets]
    return Plan(sources, data.train, PlanSettings.of(recipe, tokenizer.hash), TokenCounter(tokenizer))


def meter_of(recipe: Recipe) -> Meter:
    """Operations of the recipe's model in its stage, from shapes alone."""
    from pipeline.preflight.shapes import empty_model

    model, _ = empty_model(recipe.model, "float32")
    trains = stage_of(recipe.stage, recipe.model.base).trains
    return Meter(Sizes.of(model), trains, recipe.model.activation_checkpointing, None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of a recipe's first steps."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ranks", type=int, help="micro-batches that run side by side; default: all of a step")
    args = parser.parse_intermixed_args(arguments)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # only shapes are needed
    from pipeline.model.build import load_tokenizer

    try:
        recipe = load_recipe(args.recipe, args.overrides)
        plan = open_plan(recipe, load_tokenizer(recipe.model))
        cost = flops_of(meter_of(recipe), recipe.model.stride, recipe.data.encoder_calls)
        print(plan_report(plan, args.steps, args.ranks, cost))
    except SpeakerLMError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
