from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.ranks.stop import FAILED, StopRequest, guarded, launchers, lost_peer
from shards.errors import DataError
from tests.support.distributed import ROOT


@pytest.fixture
def stop() -> StopRequest:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    yield StopRequest().install()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signal_sets_a_flag_and_a_second_is_ignored(stop: StopRequest) -> None:
    assert not stop.is_set
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_set
    assert stop.signal == signal.SIGUSR1


def test_user_error_is_reported_without_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        raise DataError("shard 7 is bad; pack it again")

    assert guarded(run, lambda: "unused") == FAILED
    message = capfd.readouterr().err
    assert "[rank 0] DataError: shard 7 is bad; pack it again" in message
    assert "Traceback" not in message


def test_programming_error_keeps_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        raise RuntimeError("shapes do not match")

    assert guarded(run, lambda: "Start again.") == FAILED
    message = capfd.readouterr().err
    assert "Traceback" in message
    assert "Start again." in message


def test_lost_peer_is_reported_with_advice(capfd: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")

    assert guarded(run, lambda: "Start the same command again.") == FAILED
    assert "lost the connection to another rank" in capfd.readouterr().err


def test_what_is_a_lost_peer() -> None:
    assert lost_peer(RuntimeError("Timed out waiting 1800000ms for recv operation to complete"))
    assert not lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_time_limit_is_a_stop_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setattr("pipeline.ranks.stop.time.time", lambda: now)
    stop, never = StopRequest().at_the_latest(60.0, 300.0), StopRequest().at_the_latest(None, 300.0)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now) + 40))
    slurm = StopRequest().at_the_latest(60.0, 10.0)
    assert not any(request.is_set for request in (stop, slurm, never))
    now += 31
    assert slurm.is_set
    assert not stop.is_set
    now += 30
    assert stop.is_set
    assert not never.is_set


def test_a_later_stage_has_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("pipeline.ranks.stop.time.time", lambda: now)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now) + 4000))
    stop = StopRequest().at_the_latest(3000.0, 300.0)
    now += 2900
    stop.at_the_latest(3000.0, 300.0)
    assert not stop.warning, "the margin is of the job's whole time"
    assert not stop.is_set
    now += 101
    assert stop.is_set


def test_margin_as_long_as_the_job_leaves_time_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("pipeline.ranks.stop.time.time", lambda: now)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now) + 300))
    stop = StopRequest().at_the_latest(None, 300.0)
    assert "the job has 300 s left, too few for trainer.stop_margin_seconds 300" in stop.warning
    assert "stops 75 s before its end" in stop.warning
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now) + 3600))
    assert not StopRequest().at_the_latest(None, 300.0).warning
    now += 224
    assert not stop.is_set
    now += 2
    assert stop.is_set


def test_death_of_the_launcher_is_a_stop_request(tmp_path: Path) -> None:
    """As `deepspeed` does: a launcher starts a launcher, which starts the rank; the first is killed."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "deepspeed"
    script.write_text("""
import subprocess, sys
depth, command = int(sys.argv[1]), [sys.executable, *sys.argv]
rank = "import sys, time; from pipeline.ranks.stop import StopRequest; stop = StopRequest()\\n"
rank += "print(len(stop._launchers), stop.is_set, flush=True)\\n"
rank += "while not stop.is_set: time.sleep(0.02)\\nprint('gone', flush=True)"
command = [sys.executable, __file__, "0"] if depth else [sys.executable, "-c", rank]
subprocess.run(command)
""")
    first = subprocess.Popen([sys.executable, str(script), "1"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "2 False\n"
    first.kill()
    assert first.stdout.readline() == "gone\n"
    first.wait()
    first.stdout.close()


def test_shell_is_not_a_launcher() -> None:
    """Who logs out must not end a run that was started with nohup."""
    with subprocess.Popen(["bash", "-c", "sleep 20; echo bin/deepspeed"]) as shell:
        assert launchers(shell.pid) == []
        shell.kill()
