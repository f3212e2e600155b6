"""Commit, verification, selection, and rotation of checkpoints, by one process with a dict for an engine."""

from __future__ import annotations

import errno
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import format as checkpoint
from pipeline.checkpoint.final_weights import _write_weights, check_weights, read_done, write_done
from pipeline.checkpoint.format import MANIFEST, Snapshot, find_damage, newest_intact
from pipeline.checkpoint.saver import Retention
from pipeline.recipe.load import dump_recipe
from pipeline.recipe.schema import DatasetConfig, Recipe
from shards.errors import CheckpointError, StorageError
from tests.support.checkpoints import ALONE, engine_of_tensors, one_process, saver, state  # noqa: F401 - fixtures
from tests.support.filesystems import mounted


def write(folder: Path, step: int, keep_last: int = 3) -> Path:
    saver(folder, Retention(keep_last)).save({"encoder.weight": torch.full((5,), float(step))}, state(step))
    return folder / checkpoint.folder_name(step)


def test_committed_checkpoint_has_a_complete_manifest(tmp_path: Path) -> None:
    path = write(tmp_path, 7)
    assert path.name == "step-00000007"
    assert find_damage(path) is None
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["slices"] == {"encoder.weight": [["state-00000.safetensors", 0, 5]]}
    assert (manifest["step"], manifest["stage"], manifest["plan"]) == (7, 4, {"next": 7})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_last_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        write(tmp_path, step, keep_last=2)
    assert checkpoint.committed_names(tmp_path) == ["step-00000003", "step-00000010"]


def test_same_step_can_be_saved_again(tmp_path: Path) -> None:
    write(tmp_path, 3)
    assert find_damage(write(tmp_path, 3)) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "no manifest"])
def test_newest_intact_checkpoint_is_used_and_a_broken_one_logged(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 1)
    newest = write(tmp_path, 2)
    file = newest / "state-00000.safetensors"
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "remove":
        file.unlink()
    elif damage == "manifest":
        (newest / MANIFEST).write_text('{"format": 1, "fi')
    else:
        (newest / MANIFEST).unlink()
    warnings: list[str] = []
    found = newest_intact(tmp_path, ALONE, warnings.append)
    assert found is not None
    assert found.name == "step-00000001"
    assert len(warnings) == 1
    assert "step-00000002 is broken" in warnings[0]
    assert checkpoint.committed_names(tmp_path) == ["step-00000001"]
    assert (tmp_path / "broken-step-00000002").is_dir()  # kept for inspection


def test_no_checkpoint_differs_from_only_broken_ones(tmp_path: Path) -> None:
    assert newest_intact(tmp_path / "nowhere", ALONE, print) is None
    (write(tmp_path, 1) / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="every checkpoint"):
        newest_intact(tmp_path, ALONE, lambda _: None)


def test_failed_write_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match=r"rank 0: .*/state-00000\.safetensors: No space left"):
        write(tmp_path, 2)
    assert checkpoint.committed_names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize("file", ["state-00000.safetensors", "recipe.yaml", "manifest.json", "model.safetensors"])
def test_full_disk_names_the_file_that_does_not_fit(tmp_path: Path, file: str) -> None:
    """A real one of 64 KiB: each file of a save in its turn is the large one."""
    large = "x" * (1 << 17)
    of_state = {"recipe.yaml": {"recipe": large}, "manifest.json": {"plan": {"x": large}}}.get(file, {})
    tensor = torch.zeros(1 << 15 if file.endswith("safetensors") else 1)
    with mounted(tmp_path / "disk", "-o", "size=64k") as disk:
        partial = checkpoint.partial_folder(disk, 1)
        partial.mkdir()

        def save() -> None:
            if file == "model.safetensors":
                _write_weights(disk / file, {"w": tensor}, None, {})
            written = checkpoint.write_rank_file(partial, Snapshot({"w|master": tensor}, {"w": (0, 1)}), 0)
            checkpoint.commit(disk, replace(state(1), **of_state), [written])

        with pytest.raises((CheckpointError, StorageError), match=rf"{file}: .*No space left on device"):
            save()


def test_any_range_is_read_from_any_slices(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    whole = torch.arange(10.0)
    for i, (a, b) in enumerate(((0, 4), (4, 8), (8, 10))):
        save_file({"w|master": whole[a:b].clone()}, tmp_path / f"{i}.safetensors")
    files = {f"{i}.safetensors": {} for i in range(3)}
    slices = {"w": [[f"{i}.safetensors", a, b] for i, (a, b) in enumerate(((0, 4), (4, 8), (8, 10)))]}
    reader = checkpoint.SliceReader(tmp_path, {"files": files, "slices": slices})
    reader.check({"w": 10})
    for start in range(10):
        for end in range(start, 11):
            assert torch.equal(reader.read("w", "master", start, end), whole[start:end])
    with pytest.raises(CheckpointError, match=r"some of the elements .* are missing"):
        reader.read("w", "master", 5, 12)
    for sizes, message in (({"w": 8}, "another model size: w has 10"), ({"w": 10, "v": 1}, "such as v")):
        with pytest.raises(CheckpointError, match=message):
            reader.check(sizes)


def test_done_marker(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_done(tmp_path / "run")
    (tmp_path / "run").mkdir()
    with pytest.raises(CheckpointError, match="has not finished"):
        read_done(tmp_path / "run")
    write_done(tmp_path / "run", {"stage": 1, "weights_sha256": "a"})
    assert read_done(tmp_path / "run") == {"stage": 1, "weights_sha256": "a"}
    for text in ('{"stage": 1', "[]", '{"stage": 1}'):
        (tmp_path / "run" / "done").write_text(text)
        with pytest.raises(CheckpointError, match=r"done is damaged .*start the same command again"):
            read_done(tmp_path / "run")


def test_weights_of_a_run_are_checked_before_use(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    good = checkpoint.file_digest(path)["sha256"]
    check_weights(path, good, ALONE)
    path.write_bytes(b"weightS")
    with pytest.raises(CheckpointError, match="changed or damaged"):
        check_weights(path, good, ALONE)


def test_other_format_version_is_not_damage(tmp_path: Path) -> None:
    manifest = write(tmp_path, 1) / MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 99'))
    with pytest.raises(CheckpointError, match="has format 99, this code reads 2"):
        newest_intact(tmp_path, ALONE, print)
    assert checkpoint.committed_names(tmp_path) == ["step-00000001"]


# ----------------------------------------------------------------------------------------------------------- rotation


def test_last_best_and_every_kth_are_kept() -> None:
    saved = [(10, 3.0), (20, 1.0), (25, None), (30, 2.0), (40, 5.0), (50, 4.0)]
    assert Retention(2, 1, 30).to_delete(saved) == [10, 25]
    assert Retention(1, 0, 0).to_delete(saved) == [10, 20, 25, 30, 40]
    assert Retention(0, 0, 0).to_delete([(7, None)]) == []


def test_best_is_chosen_by_the_recipes_figure() -> None:
    """Losses fall while names get worse; a checkpoint without a decode is not compared."""
    figures = {
        1: {"loss": 3.0, "sacer": 20.0},
        2: {"loss": 2.0, "sacer": 10.0},
        3: {"loss": 1.0, "sacer": None},
        4: None,
    }
    manifests = [{"step": step, "validation": found} for step, found in figures.items()]
    assert Retention(1, 1, 0, "loss").to_delete_of(manifests) == [1, 2]
    assert Retention(1, 1, 0, "sacer").to_delete_of(manifests) == [1, 3]


def test_newest_intact_checkpoint_is_never_deleted(tmp_path: Path) -> None:
    """Two newer ones are damaged; a run that resumes from step 1 keeps one checkpoint and saves step 2."""
    for step in (1, 5, 6):
        write(tmp_path, step)
    for step in (5, 6):
        (tmp_path / checkpoint.folder_name(step) / "state-00000.safetensors").write_bytes(b"")
    assert newest_intact(tmp_path, ALONE, lambda _: None) == tmp_path / "step-00000001"
    write(tmp_path, 2, keep_last=1)
    assert newest_intact(tmp_path, ALONE, print) == tmp_path / "step-00000002"


@pytest.mark.parametrize("stumble", [1, 99])
def test_temporary_read_error_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stumble: int) -> None:
    """A network filesystem that has just failed over: reading again helps, or nothing is touched."""
    for step in (1, 2):
        write(tmp_path, step)
    monkeypatch.setattr("shards.storage.local.RETRY_PAUSES", (0.0, 0.0))
    left, real = [stumble], checkpoint.file_digest

    def stale(path: Path) -> dict:
        if "step-00000002" in str(path) and left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path)

    monkeypatch.setattr(checkpoint, "file_digest", stale)
    if stumble == 1:
        assert newest_intact(tmp_path, ALONE, print) == tmp_path / "step-00000002"
    else:
        with pytest.raises(CheckpointError, match=r"step-00000002.*Stale file handle.*start again"):
            newest_intact(tmp_path, ALONE, print)
    assert checkpoint.committed_names(tmp_path) == ["step-00000001", "step-00000002"]


def test_damaged_checkpoint_is_ignored_in_rotation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        write(tmp_path, step)
    (tmp_path / "step-00000002" / MANIFEST).write_text("{")
    write(tmp_path, 3, keep_last=2)
    warned = [line for line in caplog.messages if "ignored in rotation" in line]
    assert len(warned) == 1
    assert f"step-00000002/{MANIFEST}" in warned[0]
    assert checkpoint.committed_names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


# --------------------------------------------------------------------------------------------------- in the background


def test_training_continues_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is what was there at the call, whatever became of it meanwhile."""
    go, real = threading.Event(), checkpoint.write_rank_file

    def slow(*args: object) -> object:
        assert go.wait(30)
        return real(*args)

    monkeypatch.setattr(checkpoint, "write_rank_file", slow)
    weights, writer = {"w": torch.zeros(5)}, saver(tmp_path, background="always")
    writer.save(weights, state(1))
    weights["w"] += 1
    assert checkpoint.committed_names(tmp_path) == []
    go.set()
    writer.wait()
    from safetensors.torch import load_file

    assert find_damage(tmp_path / "step-00000001") is None
    assert not load_file(tmp_path / "step-00000001" / "state-00000.safetensors")["w|master"].any()


def test_failure_in_the_background_is_raised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    writer = saver(tmp_path, background="always")
    with monkeypatch.context() as m:
        m.setattr("safetensors.torch.save_file", full)
        writer.save({"w": torch.zeros(5)}, state(1))
        with pytest.raises(CheckpointError, match="No space left"):
            writer.wait()
    assert list(tmp_path.iterdir()) == []  # the space is given back
    writer.save({"w": torch.zeros(5)}, state(2))
    writer.wait()
    assert checkpoint.committed_names(tmp_path) == ["step-00000002"]


@pytest.mark.parametrize(("free", "threads"), [(0, 0), (10**12, 1)])
def test_auto_saves_in_the_background_if_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, threads: int
) -> None:
    started = []
    monkeypatch.setattr("pipeline.checkpoint.saver.free_memory", lambda: free)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread.name))
    monkeypatch.setattr(threading.Thread, "join", lambda self: None)
    saver(tmp_path, background="auto").save({"w": torch.zeros(5)}, state(1))
    assert started == ["saver"] * threads


def test_any_error_of_the_saver_thread_is_raised_in_the_main_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a fault of a library")

    monkeypatch.setattr(checkpoint, "commit", broken)
    writer = saver(tmp_path / "here", background="always")
    writer.save({"w": torch.zeros(5)}, state(1))
    with pytest.raises(CheckpointError, match="step 1 was not finished: KeyError: 'a fault of a library'"):
        writer.wait()


# -------------------------------------------------------------------------------------------------------- the recipe


def recipe_of(**changes: object) -> Recipe:
    made = Recipe(name="x", stage=1, output="x")
    made.model.extractor, made.model.llm.checkpoint = "e", "l"
    made.data.train = [DatasetConfig(path="p")]
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        node: object = made
        for parent in parents:
            node = getattr(node, parent)
        setattr(node, leaf, value)
    return made


def test_fixed_settings_are_refused_and_other_changes_logged() -> None:
    warnings: list[str] = []
    saved = dump_recipe(recipe_of())
    checkpoint._check_recipe(Path("c"), saved, recipe_of(), warnings.append)
    assert not warnings
    with pytest.raises(CheckpointError, match=r"another recipe: model\.lora\.alpha was 32, is 16"):
        checkpoint._check_recipe(Path("c"), saved, recipe_of(model__lora__alpha=16), warnings.append)
    checkpoint._check_recipe(Path("c"), saved, recipe_of(optimizer__peak_lr=1.0), warnings.append)
    assert warnings == ["the recipe is not that of c: optimizer.peak_lr was 5e-05, is 1.0"]
