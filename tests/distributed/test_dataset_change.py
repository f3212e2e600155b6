"""Two ranks, a small SpeakerLM: a save at the end of an epoch, from where the run continues with other data."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from pipeline.ranks.stop import FAILED
from tests.support.distributed import report, run_distributed, run_ranks
from tests.support.training import make_parts, tiny_recipe


def _train(
    parts: str, run: str, data: str, accept: bool = False, stop_after: int | None = None, exclude: str = ""
) -> int:
    """With a list of excluded samples that is another file on every node, as one in /tmp is."""
    from pipeline.train.run_stage import run_stages

    recipe = tiny_recipe(Path(parts), Path(run), stage=1, max_steps=9, validate_every=100, save_every=100)
    recipe.data.validation = []
    recipe.data.train[0].path = data
    if exclude:
        recipe.data.train[0].exclude = f"{exclude}-{os.environ['RANK']}"
    recipe.data.align_epochs, recipe.data.accept_dataset_change = True, accept
    return run_stages([recipe], stop_after=stop_after)


def saved(run: Path) -> list[int]:
    return sorted(int(p.parent.name.removeprefix("step-")) for p in run.glob("checkpoints/step-*/manifest.json"))


def test_ranks_that_see_other_data_do_not_train(tmp_path: Path) -> None:
    run_distributed(make_parts, 1, folder=str(tmp_path / "parts"))
    for rank, text in enumerate(("", "no-such-key\n")):
        (tmp_path / f"exclude-{rank}").write_text(text)
    parts = str(tmp_path / "parts")
    arguments = {"parts": parts, "run": str(tmp_path / "run"), "data": f"{parts}/data"}
    fates = run_ranks(_train, 2, 200, **arguments, exclude=str(tmp_path / "exclude"))
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    for fate in fates:
        assert "PlanError: rank 1 sees other data than rank 0: dataset synthetic: exclude list changed" in fate.output


def test_the_save_where_an_epoch_ends_is_where_data_may_change(tmp_path: Path) -> None:
    run_distributed(make_parts, 1, folder=str(tmp_path / "parts"))
    run, parts = tmp_path / "run", str(tmp_path / "parts")
    old, new = f"{parts}/data", f"{parts}/few"
    run_distributed(_train, 2, 200, parts=parts, run=str(run), data=old, stop_after=3)
    (ended, last) = saved(run)
    assert 1 < ended < last == 3  # not a multiple of save_every, and not the end
    shutil.rmtree(run / "checkpoints" / f"step-{last:08d}")
    fates = run_ranks(_train, 2, 200, parts=parts, run=str(run), data=new)
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    assert "--accept-dataset-change" in fates[0].output
    run_distributed(_train, 2, 200, parts=parts, run=str(run), data=new, accept=True)
    assert (run / "done").exists()
    rows = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, 10))
    samples = [sum(r["data"]["samples"].values()) for r in rows]
    assert sum(samples[:ended]) == 24
    assert samples[ended:] == [2] * (9 - ended)  # an epoch of the new data is one step
