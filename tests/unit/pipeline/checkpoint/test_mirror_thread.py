"""Copies of checkpoints in a second home, by one process with a dict for an engine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import format as checkpoint
from pipeline.checkpoint.format import MANIFEST, problem_of
from pipeline.checkpoint.mirror import Upload, newest_anywhere, open_upload
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
        assert writer.finish_copies(StopRequest(), lambda _: None)


def test_a_lost_disk_goes_on_from_the_copy(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    save_and_copy(saver(here, Retention(2, 0, 0), upload=str(there)), 1, 2, 3)
    upload = Upload(str(there))
    assert upload.names() == ["step-00000002", "step-00000003"]
    assert newest_anywhere(tmp_path / "new", ALONE, upload, print) == tmp_path / "new" / "step-00000003"
    (here / "step-00000003" / "recipe.yaml").write_text("x")
    assert newest_anywhere(here, ALONE, upload, lambda _: None) == here / "step-00000003"  # a whole one replaced it


def test_a_copy_without_manifest_does_not_count_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    save_and_copy(saver(tmp_path / "here", upload=str(tmp_path / "there")), 1, 2, 3)
    (tmp_path / "there" / "step-00000003" / MANIFEST).unlink()
    (tmp_path / "there" / "step-00000002" / "recipe.yaml").write_text("x")
    warnings: list[str] = []
    found = newest_anywhere(tmp_path / "new", ALONE, Upload(str(tmp_path / "there")), warnings.append)
    assert found == tmp_path / "new" / "step-00000001"
    assert len(warnings) == 1
    assert "step-00000002 is broken" in warnings[0]


def test_the_manifest_is_copied_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = Upload._put

    def put(self: Upload, path: Path, name: str) -> None:
        order.append(name)
        real(self, path, name)

    monkeypatch.setattr(Upload, "_put", put)
    save_and_copy(saver(tmp_path / "here", upload=str(tmp_path / "there")), 1)
    assert order == ["state-00000.safetensors", "recipe.yaml", MANIFEST]


@pytest.mark.parametrize("error", [StorageError("503 after 5 attempts"), KeyError("a fault of a library")])
def test_a_failed_copy_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def down(*_: object) -> None:
        raise error

    monkeypatch.setattr(Upload, "_put", down)
    save_and_copy(saver(tmp_path / "here", upload=str(tmp_path / "there")), 1)
    told = caplog.text
    assert "the checkpoint of step 1 is not in" in told
    assert str(error) in told
    assert problem_of(tmp_path / "here" / "step-00000001") is None


def test_a_copy_counts_only_when_the_file_of_every_rank_has_come_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another node may not see the folder that rank 0 has just given its name."""
    monkeypatch.setattr(Upload, "put_rank_file", lambda *_: None)
    save_and_copy(saver(tmp_path / "here", upload=str(tmp_path / "there")), 1)
    assert "state-00000.safetensors" in caplog.text
    assert Upload(str(tmp_path / "there")).names() == []
    monkeypatch.undo()
    with pytest.raises(StorageError, match=r"gone/state-00003\.safetensors: No such file"):
        Upload(str(tmp_path / "there")).put_rank_file(tmp_path / "gone", 3)


def test_no_save_waits_for_a_storage_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is being copied stays on disk, what comes meanwhile is left out and told, and the last is copied at last."""
    answers, real = threading.Event(), Upload.put_rank_file

    def slow(self: Upload, path: Path, rank: int) -> None:
        assert answers.wait(30)
        real(self, path, rank)

    monkeypatch.setattr(Upload, "put_rank_file", slow)
    writer = saver(tmp_path / "here", Retention(1, 0, 0), upload=str(tmp_path / "there"))
    for step in (1, 2, 3):
        writer.save({"w": torch.zeros(5)}, state(step))
    assert Upload(str(tmp_path / "there")).names() == []
    assert checkpoint.complete_names(tmp_path / "here") == ["step-00000001", "step-00000003"]
    assert caplog.text.count("that of step 1 is still on its way there") == 2
    answers.set()
    assert writer.finish_copies(StopRequest(), lambda _: None)
    assert Upload(str(tmp_path / "there")).names() == ["step-00000003"]
    save_and_copy(writer, 4)
    assert checkpoint.complete_names(tmp_path / "here") == ["step-00000004"]


def test_a_damaged_manifest_among_the_copies_is_told_once_neither_counted_nor_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = saver(tmp_path / "here", Retention(1, 0, 0), background="always", upload=str(tmp_path / "there"))
    save_and_copy(writer, 1, 2)
    damaged = tmp_path / "there" / "step-00000002" / MANIFEST
    damaged.write_text('{"format": 2, "st')
    save_and_copy(writer, 3, 4)
    assert Upload(str(tmp_path / "there")).names() == ["step-00000002", "step-00000004"]
    assert damaged.exists()
    assert caplog.text.count(f"neither counted nor deleted: {damaged}") == 1


def test_copies_that_cannot_be_deleted_are_told_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(*_: object) -> None:
        raise StorageError("s3://bucket: 403 DeleteObject")

    monkeypatch.setattr(Upload, "rotate", denied)
    save_and_copy(saver(tmp_path / "here", upload=str(tmp_path / "there")), 1)
    assert "old checkpoints may be left in" in caplog.text


def test_copies_to_the_same_folder_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "exp" / "stage1"
    for place in (run, run / "checkpoints", tmp_path):
        with pytest.raises(CheckpointError, match="name another place"):
            open_upload(str(place), run)


@pytest.mark.parametrize("url", ["s3://", "gs://bucket/runs"])
def test_a_place_for_copies_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(StorageError, match=url):
        open_upload(url, tmp_path / "exp" / "stage1")


def test_stages_with_one_place_for_copies_leave_each_others_alone(tmp_path: Path) -> None:
    def stage(number: int) -> tuple[Path, Upload]:
        output = tmp_path / "exp" / f"stage{number}"
        upload = open_upload(str(tmp_path / "there") + "/", output)
        assert upload is not None
        return output / "checkpoints", upload

    for number, steps in ((1, (5, 6)), (2, (1, 2))):
        folder, upload = stage(number)
        assert newest_anywhere(folder, ALONE, upload, print) is None
        save_and_copy(Saver(folder, ALONE, Retention(1, 0, 0), "never", upload, 30), *steps)
    assert [stage(n)[1].names() for n in (1, 2)] == [["step-00000006"], ["step-00000002"]]
    assert (tmp_path / "there" / "exp" / "stage1" / "step-00000006" / MANIFEST).exists()


def test_copies_in_s3_whose_requests_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth request fails once: the copy is whole all the same, and an empty disk goes on from it."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    with fake_s3() as server:
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server.plague(0.2, 1, ["500", "503", "reset"])
        writer = saver(tmp_path / "here", Retention(2, 0, 0), background="always", upload="s3://bucket/run")
        save_and_copy(writer, 1, 2, 3)
        upload = Upload("s3://bucket/run")
        assert upload.names() == ["step-00000002", "step-00000003"]
        found = newest_anywhere(tmp_path / "new", ALONE, upload, print)
        assert found == tmp_path / "new" / "step-00000003"
        assert problem_of(found) is None
        assert server.done, "no request failed"
