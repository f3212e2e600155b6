"""MirrorThread of checkpoints in a second home, by one process with a dict for an engine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import format as checkpoint
from pipeline.checkpoint.format import MANIFEST, find_damage
from pipeline.checkpoint.mirror import Mirror, newest_local_or_mirrored, open_mirror
from pipeline.checkpoint.saver import Retention, Saver
from pipeline.ranks.stop import StopRequest
from shards.errors import CheckpointError, StorageError
from tests.support.checkpoints import ALONE, engine_of_tensors, one_process, saver, state  # noqa: F401 - fixtures
from tests.support.s3 import fake_s3


def save_and_copy(writer: Saver, *steps: int) -> None:
    """Each step's checkpoint, when the one before has come to its second home."""
    for step in steps:
        writer.save({"w": torch.full((50,), float(step))}, state(step))
        writer.wait()
        assert writer.finish_mirroring(StopRequest(), lambda _: None)


def test_run_resumes_from_the_mirror_after_a_lost_disk(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    save_and_copy(saver(here, Retention(2, 0, 0), upload=str(there)), 1, 2, 3)
    upload = Mirror(str(there))
    assert upload.names() == ["step-00000002", "step-00000003"]
    assert newest_local_or_mirrored(tmp_path / "new", ALONE, upload, print) == tmp_path / "new" / "step-00000003"
    (here / "step-00000003" / "recipe.yaml").write_text("x")
    assert (
        newest_local_or_mirrored(here, ALONE, upload, lambda _: None) == here / "step-00000003"
    )  # a whole one replaced it


def test_copy_without_manifest_is_ignored_and_a_damaged_one_logged(tmp_path: Path) -> None:
    save_and_copy(saver(tmp_path / "here", upload=str(tmp_path / "there")), 1, 2, 3)
    (tmp_path / "there" / "step-00000003" / MANIFEST).unlink()
    (tmp_path / "there" / "step-00000002" / "recipe.yaml").write_text("x")
    warnings: list[str] = []
    found = newest_local_or_mirrored(tmp_path / "new", ALONE, Mirror(str(tmp_path / "there")), warnings.append)
    assert found == tmp_path / "new" / "step-00000001"
    assert len(warnings) == 1
    assert "step-00000002 is broken" in warnings[0]


def test_manifest_is_copied_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = Mirror._put

    def put(self: Mirror, path: Path, name: str) -> None:
        order.append(name)
        real(self, path, name)

    monkeypatch.setattr(Mirror, "_put", put)
    save_and_copy(saver(tmp_path / "here", upload=str(tmp_path / "there")), 1)
    assert order == ["state-00000.safetensors", "recipe.yaml", MANIFEST]


@pytest.mark.parametrize("error", [StorageError("503 after 5 attempts"), KeyError("a fault of a library")])
def test_failed_copy_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def down(*_: object) -> None:
        raise error

    monkeypatch.setattr(Mirror, "_put", down)
    save_and_copy(saver(tmp_path / "here", upload=str(tmp_path / "there")), 1)
    logged = caplog.text
    assert "the checkpoint of step 1 is not in" in logged
    assert str(error) in logged
    assert find_damage(tmp_path / "here" / "step-00000001") is None


def test_copy_needs_the_files_of_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another node may not see the folder that rank 0 has just given its name."""
    monkeypatch.setattr(Mirror, "put_rank_file", lambda *_: None)
    save_and_copy(saver(tmp_path / "here", upload=str(tmp_path / "there")), 1)
    assert "state-00000.safetensors" in caplog.text
    assert Mirror(str(tmp_path / "there")).names() == []
    monkeypatch.undo()
    with pytest.raises(StorageError, match=r"gone/state-00003\.safetensors: No such file"):
        Mirror(str(tmp_path / "there")).put_rank_file(tmp_path / "gone", 3)


def test_no_save_waits_for_an_unresponsive_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint stays on disk while it is copied, one that is saved meanwhile is skipped, and the last is copied."""
    answers, real = threading.Event(), Mirror.put_rank_file

    def slow(self: Mirror, path: Path, rank: int) -> None:
        assert answers.wait(30)
        real(self, path, rank)

    monkeypatch.setattr(Mirror, "put_rank_file", slow)
    writer = saver(tmp_path / "here", Retention(1, 0, 0), upload=str(tmp_path / "there"))
    for step in (1, 2, 3):
        writer.save({"w": torch.zeros(5)}, state(step))
    assert Mirror(str(tmp_path / "there")).names() == []
    assert checkpoint.committed_names(tmp_path / "here") == ["step-00000001", "step-00000003"]
    assert caplog.text.count("that of step 1 is still being copied") == 2
    answers.set()
    assert writer.finish_mirroring(StopRequest(), lambda _: None)
    assert Mirror(str(tmp_path / "there")).names() == ["step-00000003"]
    save_and_copy(writer, 4)
    assert checkpoint.committed_names(tmp_path / "here") == ["step-00000004"]


def test_damaged_manifest_in_the_mirror_is_logged_once_then_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = saver(tmp_path / "here", Retention(1, 0, 0), background="always", upload=str(tmp_path / "there"))
    save_and_copy(writer, 1, 2)
    damaged = tmp_path / "there" / "step-00000002" / MANIFEST
    damaged.write_text('{"format": 2, "st')
    save_and_copy(writer, 3, 4)
    assert Mirror(str(tmp_path / "there")).names() == ["step-00000002", "step-00000004"]
    assert damaged.exists()
    assert caplog.text.count(f"ignored in rotation: {damaged}") == 1


def test_copies_that_cannot_be_deleted_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(*_: object) -> None:
        raise StorageError("s3://bucket: 403 DeleteObject")

    monkeypatch.setattr(Mirror, "rotate", denied)
    save_and_copy(saver(tmp_path / "here", upload=str(tmp_path / "there")), 1)
    assert "old checkpoints may be left in" in caplog.text


def test_copies_to_the_same_folder_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "exp" / "stage1"
    for place in (run, run / "checkpoints", tmp_path):
        with pytest.raises(CheckpointError, match="set another one"):
            open_mirror(str(place), run)


@pytest.mark.parametrize("url", ["s3://", "gs://bucket/runs"])
def test_invalid_mirror_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(StorageError, match=url):
        open_mirror(url, tmp_path / "exp" / "stage1")


def test_stages_with_one_mirror_keep_each_others_copies(tmp_path: Path) -> None:
    def stage(number: int) -> tuple[Path, Mirror]:
        output = tmp_path / "exp" / f"stage{number}"
        upload = open_mirror(str(tmp_path / "there") + "/", output)
        assert upload is not None
        return output / "checkpoints", upload

    for number, steps in ((1, (5, 6)), (2, (1, 2))):
        folder, upload = stage(number)
        assert newest_local_or_mirrored(folder, ALONE, upload, print) is None
        save_and_copy(Saver(folder, ALONE, Retention(1, 0, 0), "never", upload, 30), *steps)
    assert [stage(n)[1].names() for n in (1, 2)] == [["step-00000006"], ["step-00000002"]]
    assert (tmp_path / "there" / "exp" / "stage1" / "step-00000006" / MANIFEST).exists()


def test_failing_s3_requests_are_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth request fails once: the copy is complete, and a run with an empty disk resumes from it."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    with fake_s3() as server:
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server.plague(0.2, 1, ["500", "503", "reset"])
        writer = saver(tmp_path / "here", Retention(2, 0, 0), background="always", upload="s3://bucket/run")
        save_and_copy(writer, 1, 2, 3)
        upload = Mirror("s3://bucket/run")
        assert upload.names() == ["step-00000002", "step-00000003"]
        found = newest_local_or_mirrored(tmp_path / "new", ALONE, upload, print)
        assert found == tmp_path / "new" / "step-00000003"
        assert find_damage(found) is None
        assert server.done, "no request failed"
