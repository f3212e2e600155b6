"""Checkpoints that are damaged, of something else, cannot be written, or are read on another number of ranks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.ranks.stop import FAILED
from tests.support.distributed import report, run_distributed, run_ranks
from tests.support.faults import Trouble, checkpoints, history, rows, same_run, train
from tests.support.filesystems import mounted
from tests.support.training import make_parts


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    run_distributed(train, 2, folder=str(folder))
    return folder


@pytest.fixture
def unfinished(straight: Path, tmp_path: Path) -> Path:
    """A run that was cut after step 9, with checkpoints of the steps 6 and 9."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    (run / "done").unlink()
    return run


@pytest.mark.parametrize("damage", ["a flipped bit", "no rank file", "a cut manifest", "no manifest"])
def test_newest_checkpoint_is_damaged(straight: Path, unfinished: Path, damage: str) -> None:
    newest = unfinished / "checkpoints" / "step-00000009"
    manifest, file = newest / "manifest.json", newest / "state-00001.safetensors"
    if damage == "a flipped bit":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "no rank file":
        file.unlink()
    elif damage == "a cut manifest":
        manifest.write_bytes(manifest.read_bytes()[:-20])
    else:
        manifest.unlink()
    (output, _) = run_distributed(train, 2, folder=str(unfinished))
    assert "WARNING checkpoint step-00000009 is broken and was skipped" in output
    assert "step-00000006 (step 6)" in output
    assert same_run(unfinished, straight)


def test_every_checkpoint_is_damaged(unfinished: Path) -> None:
    for manifest in unfinished.glob("checkpoints/*/manifest.json"):
        manifest.write_text("")
    fates = run_ranks(train, 2, 60, folder=str(unfinished))
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    assert "every checkpoint in" in fates[1].output
    assert "move the folder away to start from step 0" in fates[1].output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": 3}, "is of stage 4, this run is stage 3: set another output"),
        ({"bases": "another"}, "was trained on another llm than this run loads"),
        ({"seed": 2}, "is of another recipe: seed was 1, is 2"),
    ],
)
def test_checkpoint_of_another_run_is_refused(unfinished: Path, change: dict, words: str) -> None:
    fates = run_ranks(train, 2, 60, folder=str(unfinished), **change)
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    assert words in fates[0].output
    assert checkpoints(unfinished) == [6, 9]


def _real_run(parts: str, output: str, stop_after: int | None, swap: bool) -> int:
    from pipeline.recipe.schema import DatasetConfig
    from pipeline.train.run_stage import run_stage
    from tests.support.training import tiny_recipe

    recipe = tiny_recipe(Path(parts), Path(output), validate_every=100)
    recipe.data.validation = []
    if swap:
        recipe.data.train = [DatasetConfig(path=str(Path(parts) / "few"))]
    return run_stage(recipe, stop_after)


def test_checkpoint_of_another_dataset_is_refused(tmp_path: Path) -> None:
    run_distributed(make_parts, 1, folder=str(tmp_path))
    output = tmp_path / "run"
    arguments = {"parts": str(tmp_path), "output": str(output)}
    run_distributed(_real_run, 1, **arguments, stop_after=1, swap=False)
    (fate,) = run_ranks(_real_run, 1, **arguments, stop_after=None, swap=True)
    assert fate.code == FAILED, report([fate])
    assert "PlanError: the data position cannot be resumed" in fate.output
    assert "its shards changed" in fate.output


@pytest.mark.parametrize("background", ["never", "always"])
def test_full_disk(tmp_path: Path, background: str) -> None:
    """A real one: room for the logs and one checkpoint of 15 kB, not for two."""
    with mounted(tmp_path / "disk", "-o", "size=200k") as disk:
        run = disk / "run"
        fates = run_ranks(train, 2, 60, folder=str(run), save_in_background=background, keep_last=100, steps=60)
        assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
        assert any(re.search(r"rank \d\S* .*\.\w+: .*No space left on device", f.output) for f in fates), report(fates)
        kept = checkpoints(run)
        assert kept
        assert not list((run / "checkpoints").glob(".*")), "a part of a checkpoint takes the space"
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        (output, _) = run_distributed(train, 2, folder=str(run), keep_last=100, steps=60)
        assert f"(step {kept[-1]})" in output
        assert [s for s, *_ in history(run)] == list(range(1, 61))


def test_full_disk_on_one_rank_stops_all(tmp_path: Path) -> None:
    trouble = Trouble("full disk", rank=1)
    fates = run_ranks(train, 2, 60, folder=str(tmp_path), trouble=trouble, save_in_background="always")
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    named = rf"CheckpointError: rank 1: {tmp_path}/checkpoints/\S+/state-00001\.safetensors: No space left on device"
    assert all(re.search(named, f.output) for f in fates), report(fates)
    assert checkpoints(tmp_path) == []


def test_read_only_output(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-o", "ro") as disk:
        fates = run_ranks(train, 2, 60, folder=str(disk / "run"))
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    assert "Read-only file system; make" in fates[1].output


def test_two_runs_on_one_output(tmp_path: Path) -> None:
    from pipeline.train.run_lock import LOCK

    code = f"""
import fcntl, json, os, time
handle = os.open({str(tmp_path / LOCK)!r}, os.O_RDWR | os.O_CREAT)
fcntl.lockf(handle, fcntl.LOCK_EX)
os.write(handle, json.dumps({{"pid": os.getpid(), "host": "gpu07", "job": "41", "since": "today"}}).encode())
print("held", flush=True)
time.sleep(300)
"""
    with subprocess.Popen(["python3", "-c", code], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            fates = run_ranks(train, 2, 60, folder=str(tmp_path))
        finally:
            other.kill()
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    assert f"is being trained by process {other.pid} on gpu07 (job 41) since today" in fates[1].output
    run_distributed(train, 2, folder=str(tmp_path))  # a killed run holds no lock
    assert os.path.exists(tmp_path / "done")  # noqa: PTH110


# ------------------------------------------------------------------------------------------------------- world sizes

TOLERANCE = 1e-4  # of a loss, relative: 20 updates in fp32 whose sums were added up in another order


@pytest.mark.parametrize("worlds", [(2, 1, 2), (2, 3)])
def test_another_number_of_ranks_needs_no_flag(tmp_path: Path, worlds: tuple[int, ...]) -> None:
    """Each part makes 20 more steps; the data, and the losses but for rounding, are those of two ranks throughout."""
    total = 20 * len(worlds)
    schedule = {"steps": total, "save_every": 20, "validate_every": 1000}
    run_distributed(train, 2, folder=str(tmp_path / "two"), **schedule)
    changing = tmp_path / "changing"
    for part, world in enumerate(worlds, start=1):
        stop = Trouble("stop", step=20 * part - 1, rank=0) if part < len(worlds) else None
        run_ranks(train, world, 120, folder=str(changing), trouble=stop, **schedule)
        assert checkpoints(changing)[-1] == 20 * part
        manifest = json.loads((changing / f"checkpoints/step-{20 * part:08d}/manifest.json").read_text())
        assert manifest["world_size"] == world
    a, b = rows(tmp_path / "two", "train"), rows(changing, "train")
    assert [(r["step"], r["targets"]) for r in a] == [(r["step"], r["targets"]) for r in b]
    for one, other in zip(a, b, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=TOLERANCE), one["step"]
