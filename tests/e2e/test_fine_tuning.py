"""Commands of the page on fine-tuning, with a model that has learnt nothing and two steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file

from pipeline.export.folder import export
from pipeline.model.exported import own_tensors, read_training
from pipeline.recipe.load import load_recipe
from tests.support.datasets import make_dataset
from tests.support.finished_runs import make_finished_run
from tests.support.page_commands import page_commands, run_commands
from tests.support.tiny import make_base

STEPS = "trainer.max_steps=2 trainer.validation_batches=1 optimizer.warmup_steps=1 model.extractor=random"
SMALLER = {"root=mine ": f"root=mine {STEPS} ", "--n-ov 1-4": "--n-ov 1-2 --limit 2 --max-new-tokens 4"}


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    """From the exported folder alone: the checkpoints that it was made from are gone."""
    mine = tmp_path / "mine"
    make_base(mine / "models", layers=1)
    recipe = load_recipe("tiny/stage4", [f"root={mine}", "model.extractor=random"])
    run = make_finished_run(mine / "exp" / "stage4", recipe.model, stage=4, init_from="before")
    export(run, mine / "model", merge=True)
    for gone in ("models", "exp"):
        shutil.rmtree(mine / gone)
    for name in ("harder", "test"):
        make_dataset(mine / "data" / name, samples=4, speakers_per_sample=(1, 2))
    run_commands(page_commands("docs/fine-tuning.md", "From folder to folder", SMALLER), tmp_path)
    tuned = mine / "exp" / "fine-tuned"
    before, after = own_tensors(mine / "model"), load_file(tuned / "weights" / "model.safetensors")
    moved = {name.split(".")[0] for name in before if (after[name] != before[name].float()).any()}
    assert moved == {"encoder", "audio_projector", "speaker_projector"}
    assert any(t.any() for n, t in after.items() if "lora_B" in n)
    done = json.loads((tuned / "done").read_text())
    training = read_training(mine / "fine-tuned")
    assert training is not None
    assert (training["stage"], training["step"], training["bases"]["llm"]) == (4, 2, done["bases"]["llm"])
    rows = json.loads((mine / "fine-tuned-scores" / "scores.json").read_text())
    assert {row["mode"] for row in rows} == {"no", "match"}
