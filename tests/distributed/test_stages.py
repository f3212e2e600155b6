"""The chain of stages: in one process or one job each, on weights that their run has finished."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.ranks.stop import FAILED, REQUEUE
from tests.support.distributed import report, run_distributed, run_ranks
from tests.support.training import make_parts, tiny_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts, and stages 1 to 3 of two steps each, trained in one go."""
    made = tmp_path_factory.mktemp("chain")
    run_distributed(make_parts, 1, folder=str(made / "parts"))
    run_distributed(_chain, 2, 250, parts=str(made / "parts"), runs=str(made / "runs"), stages=(1, 2, 3))
    return made


def _chain(parts: str, runs: str, stages: tuple[int, ...], stop_after: int | None = None, **changes: Any) -> int:
    from pipeline.train.run_stage import run_stages

    recipes = []
    for n in stages:
        recipe = tiny_recipe(Path(parts), Path(runs) / f"stage{n}", stage=n, max_steps=3, validate_every=100)
        recipe.data.validation = []
        recipe.init_from = str(Path(runs) / f"stage{n - 1}") if n > 1 else None
        recipes.append(replace(recipe, **changes))
    return run_stages(recipes, stop_after)


def _chain_with_a_signal_between(parts: str, runs: str) -> int:
    """Rank 0 is asked to stop when stage 1 has ended and stage 2 has not begun."""
    import pipeline.train.run_stage

    release, alone = pipeline.train.run_stage.release, os.environ["RANK"] == "0"

    def release_and_signal(engine: Any) -> None:
        release(engine)
        if alone:
            os.kill(os.getpid(), signal.SIGTERM)

    pipeline.train.run_stage.release = release_and_signal
    return _chain(parts, runs, (1, 2))


def _chain_where_one_rank_sees_no_marker(parts: str, runs: str) -> int:
    """As on a network filesystem whose other nodes remember for a while that a file was not there."""
    import pipeline.checkpoint.final_weights
    from shards.errors import CheckpointError

    read = pipeline.checkpoint.final_weights.read_done

    def blind(run: Path) -> dict[str, Any]:
        if os.environ["RANK"] == "1":
            raise CheckpointError(f"{run} has not finished")
        return read(run)

    pipeline.checkpoint.final_weights.read_done = blind
    return _chain(parts, runs, (2,))


def _chain_where_one_rank_never_sees_a_marker(parts: str, runs: str) -> int:
    import pipeline.checkpoint.final_weights

    if os.environ["RANK"] == "1":
        pipeline.checkpoint.final_weights.is_done = lambda run: False
    return _chain(parts, runs, (2, 3), stop_after=3)


def _chain_then_count(parts: str, runs: str) -> int:
    """Bytes of tensors that were not there before."""
    import gc

    import torch

    def tensors() -> dict[int, int]:
        found = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}

    before = tensors()
    code = _chain(parts, runs, (1, 2))
    print("bytes left:", sum(size for pointer, size in tensors().items() if pointer not in before))
    return code


def weights(run: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run / "weights" / "model.safetensors")


def test_each_stage_changes_what_it_trains_and_keeps_the_rest(folder: Path) -> None:
    one, two, three = (weights(folder / "runs" / f"stage{n}") for n in (1, 2, 3))
    pairs = ((2, one, two), (3, two, three))
    moved = {n: {name.split(".")[0] for name in b if (a[name] != b[name]).any()} for n, a, b in pairs}
    assert moved == {
        2: {"audio_projector", "speaker_projector"},
        3: {"encoder", "audio_projector", "speaker_projector"},
    }
    done = json.loads((folder / "runs" / "stage3" / "done").read_text())
    before = json.loads((folder / "runs" / "stage2" / "done").read_text())
    assert done["bases"]["init_from"] == before["weights_sha256"]


def test_finished_stages_are_skipped(folder: Path) -> None:
    before = (folder / "runs" / "stage2" / "done").stat().st_mtime_ns
    parts = str(folder / "parts")
    (output,) = run_distributed(_chain, 1, parts=parts, runs=str(folder / "runs"), stages=(1, 2))
    assert "stage1 is already done" in output
    assert "stage2 is already done" in output
    assert (folder / "runs" / "stage2" / "done").stat().st_mtime_ns == before


def test_a_rank_that_does_not_see_the_marker_yet_follows_the_first_rank(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs" / "stage1", tmp_path / "stage1")
    run_distributed(_chain_where_one_rank_sees_no_marker, 2, parts=str(folder / "parts"), runs=str(tmp_path))
    assert (tmp_path / "stage2" / "done").exists()


def test_all_ranks_continue_with_the_next_stage_or_none(folder: Path, tmp_path: Path) -> None:
    """With --max-steps, which may end a stage early, the end of its steps or not at all."""
    shutil.copytree(folder / "runs" / "stage1", tmp_path / "stage1")
    parts = str(folder / "parts")
    run_distributed(_chain, 1, parts=parts, runs=str(tmp_path), stages=(2, 3), stop_after=2)
    assert not (tmp_path / "stage2" / "done").exists()
    assert not (tmp_path / "stage3").exists()
    run_distributed(_chain_where_one_rank_never_sees_a_marker, 2, parts=parts, runs=str(tmp_path))
    assert (tmp_path / "stage2" / "done").exists()
    assert (tmp_path / "stage3" / "done").exists()


def test_a_stage_wants_the_one_before_to_be_done(folder: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"parts": str(folder / "parts"), "runs": str(tmp_path), "stages": (2,)}
    (fate,) = run_ranks(_chain, 1, **arguments)
    assert fate.code == FAILED, report([fate])
    assert "stage1 does not exist (no done marker): run that stage to its end first" in fate.output
    shutil.copytree(folder / "runs" / "stage1", tmp_path / "stage1")
    (tmp_path / "stage1" / "done").unlink()
    (fate,) = run_ranks(_chain, 1, **arguments)
    assert fate.code == FAILED, report([fate])
    assert "stage1 has not finished (no done marker)" in fate.output
    run_distributed(_chain, 1, **arguments, init_from_any=True)
    assert (tmp_path / "stage2" / "done").exists()


def test_a_stage_wants_the_right_one_before(folder: Path, tmp_path: Path) -> None:
    wrong = str(folder / "runs" / "stage1")
    (fate,) = run_ranks(_chain, 1, parts=str(folder / "parts"), runs=str(tmp_path), stages=(3,), init_from=wrong)
    assert fate.code == FAILED, report([fate])
    assert "stage1 is stage 1, stage 3 continues stage 2; --init-from takes any run's weights" in fate.output


def test_damaged_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs" / "stage1", tmp_path / "stage1")
    file = tmp_path / "stage1" / "weights" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (fate,) = run_ranks(_chain, 1, parts=str(folder / "parts"), runs=str(tmp_path), stages=(2,))
    assert fate.code == FAILED, report([fate])
    assert "is not the file that its run wrote" in fate.output


def test_a_signal_between_stages_stops_before_the_next(folder: Path, tmp_path: Path) -> None:
    fates = run_ranks(_chain_with_a_signal_between, 2, parts=str(folder / "parts"), runs=str(tmp_path))
    assert [f.code for f in fates] == [REQUEUE, REQUEUE], report(fates)
    assert (tmp_path / "stage1" / "done").exists()
    assert not (tmp_path / "stage2" / "checkpoints").exists()


def test_a_stage_that_has_ended_leaves_its_memory(folder: Path, tmp_path: Path) -> None:
    outputs = run_distributed(_chain_then_count, 2, parts=str(folder / "parts"), runs=str(tmp_path))
    assert all("bytes left: 0" in output for output in outputs), outputs
