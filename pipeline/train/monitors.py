"""TensorBoard, Weights & Biases and CSV, written by DeepSpeed's monitors; all of them below ``OUTPUT/monitor``.

A restarted run continues from its checkpoint: in the same W&B run, whose id is kept in the folder, and without the CSV
rows of steps that will be repeated. The full record is ``train.jsonl``; monitors are for viewing.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from pathlib import Path
from typing import Any

from pipeline.checkpoint.format import write_atomic
from pipeline.ranks.collectives import broadcast_or_raise
from pipeline.ranks.launch import Ranks
from pipeline.recipe.schema import MonitorConfig, Recipe
from shards.commands import require
from shards.errors import ConfigError

logger = logging.getLogger(__name__)

Event = tuple[str, float, int]
CLOSE_SECONDS = 60.0  # to send the rest over a network that may be slow or down
FIELDS = ("loss", "lr", "grad_norm", "mfu", "hfu", "peak_gib", "seconds", "wait_seconds", "model_tflop")


def check_packages(settings: MonitorConfig) -> None:
    """Check that the packages of the enabled monitors are installed: before weights are loaded, not after.

    Raises:
        ConfigError: one is not.
    """
    for package in ("tensorboard", "wandb"):
        if getattr(settings, package):
            require(package, "monitor", f"monitor.{package}")


class Monitors:
    """The monitors of a run; only the first rank writes."""

    def __init__(self, recipe: Recipe, ranks: Ranks, step: int) -> None:
        """Open the monitors that the recipe enables. Collective.

        Raises:
            ConfigError: a package is missing, or W&B cannot be reached.
        """
        self._folder = Path(recipe.output) / "monitor"
        self._settings = recipe.monitor
        self._master: Any = None
        if enabled(recipe.monitor):
            broadcast_or_raise(ranks, lambda: self._open(recipe, step))

    def _open(self, recipe: Recipe, step: int) -> None:
        from deepspeed.monitor.config import get_monitor_config
        from deepspeed.monitor.monitor import MonitorMaster

        self._folder.mkdir(parents=True, exist_ok=True)
        if self._settings.wandb:
            os.environ.update(wandb_environment(recipe, self._folder))
        try:
            self._master = MonitorMaster(get_monitor_config(deepspeed_sections(self._settings, self._folder)))
        except ImportError as e:
            raise ConfigError(
                f"monitor: {e}. Install the monitors' packages: pip install 'speakerlm-pretrain[monitor]'"
            ) from e
        except Exception as e:  # W&B raises many classes of errors; all of them are the user's to mend
            raise ConfigError(
                f"monitor: {type(e).__name__}: {e}. Without a network set monitor.wandb_offline=true; "
                "`wandb sync` sends the run later"
            ) from e
        if self._master.csv_monitor is not None:
            self._master.csv_monitor.filenames = cut_csv(self._folder / "csv", step)  # their heads are written

    def train(self, row: dict[str, Any]) -> None:
        """Record a row of ``train.jsonl``."""
        self._write(train_events(row))

    def validation(self, row: dict[str, Any]) -> None:
        """Record a row of ``validation.jsonl``."""
        self._write(validation_events(row))

    def _write(self, events: list[Event]) -> None:
        if self._master is None:
            return
        try:
            self._master.write_events(events)
        except Exception as e:  # noqa: BLE001 - a picture of the run is not worth the run
            self._master = None
            logger.warning("monitors are disabled from now on (%s: %s); train.jsonl continues", type(e).__name__, e)

    def close(self) -> None:
        """Flush and close, within a time limit; the next stage of this process opens its own."""
        master, self._master = self._master, None
        if master is not None:
            close_master(master)


def close_master(master: Any, limit: float = CLOSE_SECONDS) -> None:
    """Close DeepSpeed's monitors within a time limit in seconds; a fault is logged, not raised."""
    faults: list[str] = []

    def close() -> None:
        try:
            if master.tb_monitor is not None:
                master.tb_monitor.summary_writer.close()
            if master.wandb_monitor is not None:
                import wandb

                wandb.finish()
        except Exception as e:  # noqa: BLE001 - a picture of the run is not worth the run
            faults.append(f"{type(e).__name__}: {e}")

    thread = threading.Thread(target=close, name="monitors", daemon=True)
    thread.start()
    thread.join(limit)
    if thread.is_alive():
        faults.append(f"they did not close within {limit:g} s")
    if faults:
        logger.warning("monitors may lack the end of the run (%s); train.jsonl has it", faults[0])


def enabled(settings: MonitorConfig) -> bool:
    """Whether the recipe enables a monitor."""
    return settings.tensorboard or settings.wandb or settings.csv


def deepspeed_sections(settings: MonitorConfig, folder: Path) -> dict[str, Any]:
    """Return the monitors' sections of DeepSpeed's configuration."""
    return {
        "tensorboard": {"enabled": settings.tensorboard, "output_path": str(folder), "job_name": "tensorboard"},
        "csv_monitor": {"enabled": settings.csv, "output_path": str(folder), "job_name": "csv"},
        "wandb": {
            "enabled": settings.wandb,
            "project": settings.wandb_project,
            "team": settings.wandb_team,
            "group": settings.wandb_group,
        },
    }


def wandb_environment(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Return variables that make every start of this run the same W&B run. The user's ``WANDB_MODE`` has precedence."""
    path = folder / "wandb-run-id"
    if not path.exists():
        write_atomic(path, uuid.uuid4().hex[:12])
    mode = {"WANDB_MODE": os.environ.get("WANDB_MODE", "offline")} if recipe.monitor.wandb_offline else {}
    return {
        "WANDB_RUN_ID": path.read_text(encoding="utf-8").strip(),
        "WANDB_RESUME": "allow",
        "WANDB_DIR": str(folder),
        "WANDB_NAME": f"{recipe.name} stage {recipe.stage}",
        "WANDB_SILENT": os.environ.get("WANDB_SILENT", "true"),
        **mode,
    }


def train_events(row: dict[str, Any]) -> list[Event]:
    """Return name, value and step of each finite figure of a row."""
    values: dict[str, Any] = {f"train/{name}": row.get(name) for name in FIELDS}
    values["train/tokens_per_second"] = row["positions"] / row["seconds"] if row["seconds"] else None
    values["train/audio_hours_per_hour"] = row["audio_seconds"] / row["seconds"] if row["seconds"] else None
    values |= {f"train/loss/{name}": value for name, value in row["losses"].items()}
    values |= {f"train/grad_norm/{name}": value for name, value in row["module_norms"].items()}
    return [(name, float(value), row["step"]) for name, value in values.items() if value is not None]


def validation_events(row: dict[str, Any]) -> list[Event]:
    """Return name, value and step of each figure of a validation."""
    values: dict[str, Any] = {"validation/loss": row["loss"], "validation/share": row["share"]}
    values |= {f"validation/loss/{name}": value for name, value in row["losses"].items()}
    gain = row.get("registration_gain") or {}
    values |= {f"validation/registration_gain/{name}": gain.get(name) for name in ("names", "all")}
    for mode, rates in (row.get("scores") or {}).items():
        values |= {f"validation/{rate}/{mode}": value for rate, value in rates.items() if rate != "clips"}
    return [(name, float(value), row["step"]) for name, value in values.items() if value is not None]


def cut_csv(folder: Path, step: int) -> list[str]:
    """Drop rows of steps after ``step``, which will be repeated. Return the names of the files, without suffix."""
    files = sorted(folder.glob("*.csv"))
    for path in files:
        head, *rows = path.read_text(encoding="utf-8").splitlines() or [""]
        kept = [r for r in rows if r.split(",", 1)[0].isdecimal() and int(r.split(",", 1)[0]) <= step]
        write_atomic(path, "".join(f"{line}\n" for line in [head, *kept]))
    return [path.stem for path in files]
