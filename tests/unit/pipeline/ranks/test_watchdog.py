from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.ranks.device_idle import DeviceIdle
from pipeline.ranks.launch import Ranks
from pipeline.ranks.stop import FAILED
from pipeline.ranks.watchdog import CollectiveClock, OwnTime, Watchdog, nccl_environment, slowest
from tests.support.distributed import ROOT


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def test_hanging_process_writes_its_stacks_and_ends(tmp_path: Path) -> None:
    result = run(f"""
import time
from pathlib import Path
from pipeline.ranks.watchdog import Watchdog
def stuck_here():
    time.sleep(50)
with Watchdog(60, 0.3, Path({str(tmp_path)!r})).watching(lambda: "Start again.") as dog:
    dog.beat("step 7", warm=True)
    stuck_here()
""")
    assert result.returncode == FAILED
    assert "[rank 0] TrainingError: no progress for 0 s during step 7" in result.stderr
    assert "Start again." in result.stderr
    assert "in stuck_here" in result.stderr
    assert "in stuck_here" in (tmp_path / "rank-00000.txt").read_text()


def test_blocked_interpreter_is_ended() -> None:
    """A call into C that keeps the interpreter's lock stops every Python thread, the watchdog's as well."""
    result = run("""
import ctypes
from pipeline.ranks import watchdog
watchdog.GRACE = 0.1
with watchdog.Watchdog(60, 0.3).watching(str) as dog:
    dog.beat("step 1", warm=True)
    ctypes.PyDLL(None).sleep(50)
""")
    assert result.returncode == FAILED
    assert "Timeout" in result.stderr


def test_limit_is_long_at_the_start_and_short_afterwards() -> None:
    dog = Watchdog(100.0, 5.0)
    assert dog.limit == 100.0
    dog.beat("validation")
    assert dog.limit == 100.0
    dog.beat("loading data", warm=True)
    assert dog.limit == 5.0
    dog.beat("weights", warm=False)
    assert dog.limit == 100.0


def test_heartbeats_keep_the_process_alive() -> None:
    with Watchdog(0.4, 0.4).watching(str) as dog:
        for _ in range(6):
            time.sleep(0.1)
            dog.beat("working")


@pytest.mark.parametrize(
    ("seconds", "rank"),
    [([1.0, 1.1, 3.0], 2), ([1.0, 1.1, 1.2], None), ([0.010, 0.030], None), ([0.1, 0.9], 1), ([5.0], None)],
)
def test_straggler_is_much_slower_than_the_others(seconds: list[float], rank: int | None) -> None:
    assert slowest(seconds, steps=4) == rank


def test_waiting_in_a_collective_is_not_own_time() -> None:
    class Handle:
        def wait(self) -> str:
            time.sleep(0.05)
            return "done"

        def is_completed(self) -> bool:
            return True

    clock = CollectiveClock()
    handle = clock._timed(Handle)()
    assert handle.is_completed()
    before = clock.seconds
    assert handle.wait() == "done"
    assert clock.seconds - before >= 0.05


class Stream:
    """A GPU's stream, played."""

    def __init__(self, handle: int, done: bool) -> None:
        self.cuda_stream, self.done = handle, done

    def query(self) -> bool:
        return self.done


def test_a_late_host_inside_a_step_of_a_gpu_is_the_straggler(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock both hosts take as long: the other waits for its device, which waits in a collective."""
    laps = []
    for idle in (False, True):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda idle=idle: Stream(0, idle))
        own = OwnTime(Ranks(0, 1, 0, torch.device("cuda", 0)))
        own.start([0.0])
        time.sleep(0.3)
        laps.append(own.lap())
    assert slowest(laps, steps=1) == 1
    assert laps[0] == 0.0


def test_waits_for_other_ranks_are_no_idle_time_of_a_gpu() -> None:
    """Neither on a stream that only collectives use, nor while the host waits."""
    main, collectives = Stream(0, True), Stream(1, False)
    clock = CollectiveClock(lambda: main)
    idle = DeviceIdle(lambda: clock.streams, lambda: not clock.depth)
    with clock.waiting():
        time.sleep(0.1)
    assert idle.seconds < 0.05
    clock._current_stream = lambda: collectives
    clock._timed(str)()
    before = idle.seconds
    time.sleep(0.1)
    assert idle.seconds - before < 0.05
    collectives.done = True
    time.sleep(0.1)
    assert idle.seconds > before
    idle.stop()


def test_nccl_leaves_a_flight_record(tmp_path: Path) -> None:
    env = nccl_environment(900.0, tmp_path)
    assert env["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    assert env["TORCH_FR_DUMP_TEMP_FILE"].startswith(str(tmp_path))
    assert int(env["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"]) > 900
    assert "TORCH_NCCL_ASYNC_ERROR_HANDLING" not in env  # torch's default, 3, ends the process without a clean-up


def test_hang_writes_nccls_flight_record(tmp_path: Path) -> None:
    """Played by a function of torch's name: this torch may have no NCCL."""
    result = run(f"""
import time, torch
from pathlib import Path
from pipeline.ranks.watchdog import Watchdog
torch._C._distributed_c10d._dump_nccl_trace = lambda: b"collectives"
with Watchdog(60, 0.3, Path({str(tmp_path)!r})).watching(str) as dog:
    dog.beat("step 7", warm=True)
    time.sleep(50)
""")
    assert result.returncode == FAILED, result.stderr
    assert (tmp_path / "nccl-rank-0").read_bytes() == b"collectives"
