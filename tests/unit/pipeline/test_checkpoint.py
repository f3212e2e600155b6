"""Commit, verification and selection of checkpoints, by one process with a stand-in for an engine's tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint
from pipeline.checkpoint import MANIFEST, RunState, newest_whole, problem_of, read_done, save, write_done
from pipeline.engine import Ranks
from shards.errors import CheckpointError

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process group: agreements are with oneself; the engine is a dict of flat tensors."""
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda out, mine: out.__setitem__(0, mine))

    def slices(engine: dict[str, torch.Tensor], rank: int, world_size: int) -> object:
        for name, tensor in engine.items():
            for kind in ("master", "exp_avg", "exp_avg_sq"):
                yield name, kind, 0, tensor.clone()

    monkeypatch.setattr(checkpoint, "read_slices", slices)


def write(folder: Path, step: int, keep_last: int = 3) -> Path:
    engine = {"encoder.weight": torch.full((5,), float(step))}
    return save(folder, engine, ALONE, RunState(4, step, {"next": step}, {"llm": "abc"}, "name: x\n"), keep_last)


def test_committed_checkpoint_is_whole_and_says_what_it_holds(tmp_path: Path) -> None:
    path = write(tmp_path, 7)
    assert path.name == "step-00000007"
    assert problem_of(path) is None
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["slices"] == {"encoder.weight": [["state-00000.safetensors", 0, 5]]}
    assert (manifest["step"], manifest["stage"], manifest["plan"]) == (7, 4, {"next": 7})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        write(tmp_path, step, keep_last=2)
    assert checkpoint.complete_names(tmp_path) == ["step-00000003", "step-00000010"]


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    write(tmp_path, 3)
    assert problem_of(write(tmp_path, 3)) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "no manifest"])
def test_newest_whole_checkpoint_is_used_and_the_broken_one_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 1)
    newest = write(tmp_path, 2)
    state = newest / "state-00000.safetensors"
    if damage == "flip":
        data = bytearray(state.read_bytes())
        data[-3] ^= 1
        state.write_bytes(data)
    elif damage == "cut":
        state.write_bytes(state.read_bytes()[:-4])
    elif damage == "remove":
        state.unlink()
    elif damage == "manifest":
        (newest / MANIFEST).write_text('{"format": 1, "fi')
    else:
        (newest / MANIFEST).unlink()
    warnings: list[str] = []
    found = newest_whole(tmp_path, ALONE, warnings.append)
    assert found is not None
    assert found.name == "step-00000001"
    assert len(warnings) == 1
    assert "step-00000002 is broken" in warnings[0]


def test_none_at_all_is_not_the_same_as_all_broken(tmp_path: Path) -> None:
    assert newest_whole(tmp_path / "nowhere", ALONE, print) is None
    (write(tmp_path, 1) / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="every checkpoint"):
        newest_whole(tmp_path, ALONE, lambda _: None)


def test_a_failed_write_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match=r"rank 0: .*No space left"):
        write(tmp_path, 2)
    assert checkpoint.complete_names(tmp_path) == ["step-00000001"]


def test_any_range_is_read_from_any_slices(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    whole = torch.arange(10.0)
    for i, (a, b) in enumerate(((0, 4), (4, 8), (8, 10))):
        save_file({"w|master": whole[a:b].clone()}, tmp_path / f"{i}.safetensors")
    files = {f"{i}.safetensors": {} for i in range(3)}
    slices = {"w": [[f"{i}.safetensors", a, b] for i, (a, b) in enumerate(((0, 4), (4, 8), (8, 10)))]}
    reader = checkpoint._SliceReader(tmp_path, {"files": files, "slices": slices})
    for start in range(10):
        for end in range(start, 11):
            assert torch.equal(reader.read("w", "master", start, end), whole[start:end])
    with pytest.raises(CheckpointError, match="another model"):
        reader.read("w", "master", 5, 12)


def test_done_marker(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_done(tmp_path / "run")
    (tmp_path / "run").mkdir()
    with pytest.raises(CheckpointError, match="has not finished"):
        read_done(tmp_path / "run")
    write_done(tmp_path / "run", {"stage": 1})
    assert read_done(tmp_path / "run") == {"stage": 1}


def test_weights_of_a_run_are_checked_before_use(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    good = checkpoint._seal(path)["sha256"]
    checkpoint.check_weights(path, good, ALONE)
    path.write_bytes(b"weightS")
    with pytest.raises(CheckpointError, match="changed or damaged"):
        checkpoint.check_weights(path, good, ALONE)


def test_lists_of_ranks_are_merged_once_each(tmp_path: Path) -> None:
    items = [{"step": 2, "key": "b"}, {"key": "a", "step": 1}, {"key": "b", "step": 2}]
    assert checkpoint.merged(ALONE, items) == [{"key": "a", "step": 1}, {"key": "b", "step": 2}]
