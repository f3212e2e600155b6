from __future__ import annotations

import csv
import json
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import MonitorConfig
from pipeline.train.monitors import close_master, cut_csv, train_events, validation_events, wandb_environment
from shards.errors import ConfigError
from tests.support.distributed import report, run_distributed, run_ranks


def _train(output: str, stop_after: int | None, **monitor: object) -> int:
    from pipeline.ranks.launch import init_distributed
    from pipeline.ranks.stop import guarded
    from tests.support.toy import toy_recipe, toy_trainer

    recipe = toy_recipe(Path(output), log_every=1)
    recipe.monitor = MonitorConfig(**monitor)

    def run() -> int:
        trainer = toy_trainer(recipe, init_distributed(30), stop_after=stop_after)
        code = trainer.train()
        trainer.monitors.close()
        return code

    return guarded(run, str)


def test_monitors_continue_from_the_checkpoint(tmp_path: Path) -> None:
    """A run of six steps, stopped after four and damaged back to step three, and started again."""
    every = {"tensorboard": True, "csv": True, "wandb": True, "wandb_offline": True}
    before = set(Path(tempfile.gettempdir()).glob("*wandb*"))
    run_distributed(_train, 2, output=str(tmp_path), stop_after=4, **every)
    monitor = tmp_path / "monitor"
    run_id = (monitor / "wandb-run-id").read_text()
    (tmp_path / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    run_distributed(_train, 2, output=str(tmp_path), stop_after=None, **every)

    log = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    losses = [(r["step"], pytest.approx(r["loss"])) for r in log]
    with (monitor / "csv" / "train_loss.csv").open() as file:
        head, *rows = list(csv.reader(file))
    assert head == ["step", "loss"]
    assert [(int(s), float(v)) for s, v in rows] == losses
    assert (monitor / "csv" / "validation_registration_gain_names.csv").exists()
    assert (monitor / "csv" / "train_grad_norm_lora.csv").exists()

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(monitor / "tensorboard"))
    accumulator.Reload()
    events = {e.step: e.value for e in accumulator.Scalars("train/loss")}
    assert sorted(events.items()) == [(s, pytest.approx(v.expected, rel=1e-5)) for s, v in losses]
    assert {"train/tokens_per_second", "validation/loss/toy/match"} <= set(accumulator.Tags()["scalars"])

    folders = sorted((monitor / "wandb").glob("offline-run-*"))
    assert len(folders) == 2, "each start writes its part of the run"
    assert all(f.name.endswith(f"-{run_id}") for f in folders), [f.name for f in folders]
    assert (monitor / "wandb-run-id").read_text() == run_id
    assert set(Path(tempfile.gettempdir()).glob("*wandb*")) <= before, "ranks leave no temporary folders"


def test_a_missing_package_is_an_error_on_every_rank(tmp_path: Path) -> None:
    fates = run_ranks(_without_tensorboard, 2, 60, output=str(tmp_path))
    for fate in fates:
        assert fate.code == 1, report(fates)
        assert "pip install 'speakerlm-pretrain[monitor]'" in fate.output


def _without_tensorboard(output: str) -> int:
    import sys

    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]
    return _train(output, None, tensorboard=True)


def test_a_monitor_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    (output, *_) = run_distributed(_with_a_full_disk, 1, output=str(tmp_path))
    assert output.count("WARNING monitors are disabled from now on (OSError: no space)") == 1
    assert (tmp_path / "done").exists()


def _with_a_full_disk(output: str) -> int:
    from deepspeed.monitor.monitor import MonitorMaster

    def fail(*_: object) -> None:
        raise OSError("no space")

    MonitorMaster.write_events = fail
    return _train(output, None, csv=True)


def test_events_hold_what_is_finite() -> None:
    row = {"step": 7, "loss": None, "lr": 0.5, "positions": 30, "audio_seconds": 10.0, "seconds": 2.0}
    events = train_events({**row, "losses": {"d/no": 1.5, "d/match": None}, "module_norms": {"lora": 2.0}})
    assert ("train/lr", 0.5, 7) in events
    assert ("train/tokens_per_second", 15.0, 7) in events
    assert ("train/loss/d/no", 1.5, 7) in events
    assert ("train/grad_norm/lora", 2.0, 7) in events
    assert not {"train/loss", "train/loss/d/match"} & {name for name, *_ in events}
    scores = {"match": {"clips": 3, "cer": 12.0, "sacer": None}}
    events = validation_events(
        {
            "step": 9,
            "loss": 1.0,
            "share": 0.1,
            "losses": {},
            "registration_gain": {"names": 0.5, "all": 0.1},
            "scores": scores,
        }
    )
    assert ("validation/cer/match", 12.0, 9) in events
    assert ("validation/registration_gain/names", 0.5, 9) in events
    assert not [name for name, *_ in events if "clips" in name or "sacer" in name]


def test_csv_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "train_loss.csv").write_text("step,loss\n1,0.5\n2,0.4\n3,0.3\n4,")
    assert cut_csv(tmp_path, 2) == ["train_loss"]
    assert (tmp_path / "train_loss.csv").read_text() == "step,loss\n1,0.5\n2,0.4\n"


def test_wandb_gets_one_id_for_all_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    recipe = load_recipe("launch/recipes/tiny/stage1.yaml", ["monitor.wandb=true", "monitor.wandb_offline=true"])
    first, second = wandb_environment(recipe, tmp_path), wandb_environment(recipe, tmp_path)
    assert first["WANDB_RUN_ID"] == second["WANDB_RUN_ID"]
    assert first["WANDB_RESUME"] == "allow"
    assert first["WANDB_MODE"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_environment(recipe, tmp_path)["WANDB_MODE"] == "disabled"


def test_monitors_in_deepspeeds_file_are_refused(tmp_path: Path) -> None:
    from pipeline.recipe.deepspeed import resolve_deepspeed

    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"tensorboard": {"enabled": True}}))
    recipe = load_recipe("launch/recipes/tiny/stage1.yaml", [f"deepspeed={path}"])
    with pytest.raises(
        ConfigError, match=r"tensorboard does not belong here: monitors are the recipe's \(monitor\.\*\)"
    ):
        resolve_deepspeed(recipe, 1)


@pytest.mark.parametrize(
    ("fault", "says"), [("raises", "OSError: no route to host"), ("hangs", "did not close within")]
)
def test_monitors_that_do_not_close_cost_the_run_nothing(
    caplog: pytest.LogCaptureFixture, fault: str, says: str
) -> None:
    def close() -> None:
        if fault == "raises":
            raise OSError("no route to host")
        released.wait(30)

    released = threading.Event()
    writer = SimpleNamespace(close=close)
    master = SimpleNamespace(tb_monitor=SimpleNamespace(summary_writer=writer), wandb_monitor=None)
    close_master(master, limit=0.2 if fault == "hangs" else 30.0)
    released.set()
    assert says in caplog.text
