"""The real launchers, and loader processes, on a tiny SpeakerLM with its real data path."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.ranks.launch import free_port
from pipeline.ranks.stop import FAILED, REQUEUE
from pipeline.recipe.load import save_recipe
from tests.support.distributed import CPU, ROOT, report, run_command, run_distributed, run_ranks
from tests.support.training import make_parts, tiny_recipe

BIN = Path(sys.executable).parent
LONG = 600  # seconds that a start may take on a busy machine
pytestmark = pytest.mark.timeout(3 * LONG)
SCRIPT = str(ROOT / "launch" / "train.py")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    run_distributed(make_parts, 1, folder=str(folder))
    return folder


def recipe_file(parts: Path, folder: Path, steps: int) -> Path:
    recipe = tiny_recipe(parts, folder / "run", stage=1, max_steps=steps, validate_every=10_000, save_every=10_000)
    recipe.data.workers, recipe.data.validation = 1, []
    path = folder / "stage1.yaml"
    folder.mkdir(exist_ok=True)
    save_recipe(recipe, path)
    return path


def steps_of(run: Path) -> list[int]:
    log = run / "train.jsonl"
    return [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.exists() else []


def test_sigterm_through_deepspeeds_launcher_then_torchrun_resumes(parts: Path, tmp_path: Path) -> None:
    """The signal reaches one rank long before the other; both save after the same step, and no process is left."""
    path, run = recipe_file(parts, tmp_path, 4000), tmp_path / "run"
    launcher = [str(BIN / "deepspeed"), "--num_accelerators", "2", "--master_port", str(free_port())]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*launcher, SCRIPT, str(path)],
            env={**os.environ, **CPU, "PYTHONUNBUFFERED": "1"},
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + LONG
            while len(steps_of(run)) < 3 and process.poll() is None and time.monotonic() < end:
                time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            process.wait(LONG)
            _wait_until_gone(process.pid)
        finally:
            _kill_session(process.pid)
    said = (tmp_path / "log").read_text(errors="replace")
    made = steps_of(run)[-1]
    assert f"stopped after step {made}" in said, said[-3000:]
    assert (run / "checkpoints" / f"step-{made:08d}" / "manifest.json").exists()
    assert not (run / "done").exists()
    torchrun = [str(BIN / "torchrun"), "--nproc-per-node", "2", "--master-port", str(free_port())]
    fate = run_command([*torchrun, SCRIPT, str(path), "--max-steps", str(made + 2)], LONG)
    assert fate.code == 0, fate.output[-3000:]
    assert f"resumed from {run / 'checkpoints' / f'step-{made:08d}'}" in fate.output
    assert steps_of(run) == list(range(1, made + 3))


def _session(leader: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(leader)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def _wait_until_gone(leader: int) -> None:
    end = time.monotonic() + LONG
    while (left := _session(leader)) and time.monotonic() < end:
        time.sleep(0.5)
    assert not left, f"processes {left} outlive the launcher"


def _kill_session(leader: int) -> None:
    for pid in _session(leader):
        os.kill(pid, signal.SIGKILL)


def test_srun_sets_the_ranks(parts: Path, tmp_path: Path) -> None:
    """Two processes with what a step of Slurm gives them, and nothing else."""
    path = recipe_file(parts, tmp_path, 50)
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1"}
    step |= {"SLURM_JOB_ID": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(path), "--max-steps", "1"],
            env={**clean, **CPU, **step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [p.communicate(timeout=LONG)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert [p.returncode for p in processes] == [0, 0], said
    manifest = json.loads((tmp_path / "run" / "checkpoints" / "step-00000001" / "manifest.json").read_text())
    assert manifest["world_size"] == 2


# ------------------------------------------------------------------------------------------------------------ loaders


def _with_workers(parts: str, output: str, trouble: str, rank_of_trouble: int = 1) -> int:
    """Four real steps with a loader process a rank."""
    from pipeline.train.run_stage import run_stage
    from pipeline.train.stage_data import StageData

    recipe = tiny_recipe(Path(parts), Path(output), stage=1, max_steps=6, save_every=1, validate_every=100)
    recipe.data.workers, recipe.data.validation, recipe.data.prefetch_steps = 1, [], 1
    load = StageData.train

    def troubled(self: StageData, state: dict | None) -> object:
        for step in load(self, state):
            workers = multiprocessing.active_children()
            print("workers", [w.pid for w in workers], flush=True)
            if step.step == 3 and self._ranks.rank == rank_of_trouble:
                if trouble == "kill":
                    os.kill(workers[0].pid or 0, signal.SIGKILL)
                elif trouble == "stop":
                    for pid in (workers[0].pid, os.getpid()):  # as a batch system does: every process
                        os.kill(pid or 0, signal.SIGTERM)
                    os.kill(workers[0].pid or 0, signal.SIGUSR1)
                    assert workers[0].is_alive()
            yield step

    StageData.train = troubled  # type: ignore[method-assign, assignment]
    return run_stage(recipe)


def test_loader_process_is_killed(parts: Path, tmp_path: Path) -> None:
    arguments = {"parts": str(parts), "output": str(tmp_path / "run")}
    fates = run_ranks(_with_workers, 2, LONG, **arguments, trouble="kill")
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    assert "TrainingError: " in fates[1].output
    assert "DataLoader worker" in fates[1].output
    assert "lower data.workers or data.prefetch_steps" in fates[1].output
    assert "Start the same command again: it resumes from step" in fates[0].output
    run_distributed(_with_workers, 2, LONG, **arguments, trouble="none")
    assert steps_of(tmp_path / "run") == [1, 2, 3, 4, 5, 6]


def test_loader_processes_ignore_stop_signals(parts: Path, tmp_path: Path) -> None:
    arguments = {"parts": str(parts), "output": str(tmp_path / "run")}
    fates = run_ranks(_with_workers, 2, LONG, **arguments, trouble="stop")
    assert [f.code for f in fates] == [REQUEUE, REQUEUE], report(fates)
    assert "DataLoader worker" not in fates[1].output
    assert steps_of(tmp_path / "run") == [1, 2, 3]
