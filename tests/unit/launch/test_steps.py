"""Steps run once, behind those that they need; failures and stops say what to do; progress."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of launch/, found as by a script in that folder."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    return importlib.import_module


def step(steps: ModuleType, folder: Path, name: str, code: str, **options: Any) -> Any:
    return steps.Step(name, (sys.executable, "-c", code), folder / f"{name}.done", **options)


def test_a_step_runs_once_and_a_failed_one_again(load: Any, tmp_path: Path, capsys: Any) -> None:
    steps = load("steps")
    log = tmp_path / "count"
    count = f"from pathlib import Path; p = Path({str(log)!r}); p.open('a').write('x')\n"
    first = step(steps, tmp_path, "first", count + f"Path({str(tmp_path / 'first.done')!r}).touch()")
    broken = step(steps, tmp_path, "broken", "print('why'); raise SystemExit(3)")
    with pytest.raises(SystemExit, match=r"FAILED: broken \(exit status 3\)") as error:
        steps.run_steps([first, broken], tmp_path / "logs", tmp_path, "make it")
    assert "`make it` continues from this step" in str(error.value)
    assert "why" in capsys.readouterr().err
    mended = step(steps, tmp_path, "broken", f"from pathlib import Path; Path({str(broken.proof)!r}).touch()")
    steps.run_steps([first, mended], tmp_path / "logs", tmp_path, "make it")
    assert log.read_text() == "x"
    assert "have  1/2  first" in capsys.readouterr().out


def test_a_step_without_proof_has_failed(load: Any, tmp_path: Path) -> None:
    steps = load("steps")
    with pytest.raises(SystemExit, match="was not written"):
        steps.run_steps([step(steps, tmp_path, "idle", "pass")], tmp_path / "logs", tmp_path, "make it")


def test_what_a_check_prints_is_its_proof_but_not_where_it_fails(load: Any, tmp_path: Path) -> None:
    steps = load("steps")
    good = step(steps, tmp_path, "good", "print('no leak')", prints_proof=True)
    bad = step(steps, tmp_path, "bad", "print('leak'); raise SystemExit(1)", prints_proof=True)
    with pytest.raises(SystemExit, match="FAILED: bad"):
        steps.run_steps([good, bad], tmp_path / "logs", tmp_path, "make it")
    assert good.proof.read_text() == "no leak\n"
    assert not bad.proof.exists()


def touching(path: Path, before: str = "pass") -> str:
    return f"from pathlib import Path; import time; {before}; Path({str(path)!r}).touch()"


def test_steps_that_do_not_need_one_another_run_at_the_same_time(load: Any, tmp_path: Path) -> None:
    """Each waits for the other's file, and could not end alone; the last one starts behind both."""
    steps = load("steps")
    begun = {name: tmp_path / f"{name}.begun" for name in "ab"}

    def meet(own: str, other: str) -> Any:
        wait = f"Path({str(begun[own])!r}).touch()\nwhile not Path({str(begun[other])!r}).exists(): time.sleep(0.01)\n"
        code = f"from pathlib import Path; import time\n{wait}Path({str(tmp_path / (own + '.done'))!r}).touch()"
        return step(steps, tmp_path, own, code, after=())

    both = f"assert Path({str(tmp_path / 'a.done')!r}).exists() and Path({str(tmp_path / 'b.done')!r}).exists()"
    last = step(steps, tmp_path, "last", touching(tmp_path / "last.done", both))
    steps.run_steps([meet("a", "b"), meet("b", "a"), last], tmp_path / "logs", tmp_path, "make it")
    assert (tmp_path / "last.done").exists()


def test_a_step_waits_for_the_ones_it_names_only(load: Any, tmp_path: Path) -> None:
    """The third runs while the first waits for it; the second, which needs the first, comes behind."""
    steps = load("steps")
    done = {name: tmp_path / f"{name}.done" for name in ("first", "second", "third")}
    wait = f"[time.sleep(0.01) for _ in iter(lambda: Path({str(done['third'])!r}).exists(), True)]"
    alone = f"assert not Path({str(done['second'])!r}).exists()"
    first = step(steps, tmp_path, "first", touching(done["first"], wait))
    second = step(steps, tmp_path, "second", touching(done["second"]), after=("first",))
    third = step(steps, tmp_path, "third", touching(done["third"], alone), after=())
    steps.run_steps([first, second, third], tmp_path / "logs", tmp_path, "make it")
    assert all(path.exists() for path in done.values())


def test_after_a_failure_running_steps_end_and_no_other_starts(load: Any, tmp_path: Path) -> None:
    steps = load("steps")
    slow = step(steps, tmp_path, "slow", touching(tmp_path / "slow.done", "time.sleep(0.5)"), after=())
    broken = step(steps, tmp_path, "broken", "raise SystemExit(3)", after=())
    third = step(steps, tmp_path, "third", touching(tmp_path / "third.done"), after=())
    fourth = step(steps, tmp_path, "fourth", touching(tmp_path / "fourth.done"))
    with pytest.raises(SystemExit, match=r"FAILED: broken \(exit status 3\)"):
        steps.run_steps([slow, broken, third, fourth], tmp_path / "logs", tmp_path, "make it")
    assert (tmp_path / "slow.done").exists()
    assert not (tmp_path / "third.done").exists()
    assert not (tmp_path / "fourth.done").exists()


def test_progress_says_which_step_of_how_many_and_the_time_left(load: Any, tmp_path: Path, capsys: Any) -> None:
    steps = load("steps")
    (tmp_path / "old.done").touch()
    old = step(steps, tmp_path, "old", "pass")
    made = [
        step(steps, tmp_path, name, touching(tmp_path / f"{name}.done"), seconds=seconds)
        for name, seconds in (("one", 10.0), ("two", 10.0), ("three", 1e9))
    ]
    steps.run_steps([old, *made], tmp_path / "logs", tmp_path, "make it")
    have, one, two, three = capsys.readouterr().out.splitlines()
    assert have == "  have  1/4  old"
    assert one.startswith("  done  2/4  one  ")
    assert "left" not in one  # too little has been measured
    assert "about " in two
    assert two.endswith(" min left")
    assert "left" not in three


def test_parts_of_a_step_have_lines_of_their_own_and_a_rest_is_run(load: Any, tmp_path: Path, capsys: Any) -> None:
    """The first part's line comes while the command waits for it to be noticed."""
    steps = load("steps")
    proofs = [tmp_path / f"{name}.done" for name in "abc"]
    proofs[0].touch()
    code = f"from pathlib import Path; import time; Path({str(proofs[1])!r}).touch(); time.sleep(2.5)\n"
    code += f"Path({str(proofs[2])!r}).touch()"
    parts = tuple(steps.Part(p.stem, p, 1.0) for p in proofs)
    both = steps.Step("all", (sys.executable, "-c", code), proofs[2], parts=parts)
    steps.run_steps([both], tmp_path / "logs", tmp_path, "make it")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1:4] for line in lines] == [
        ["have", "1/3", "a"], ["done", "2/3", "b"], ["done", "3/3", "c"]
    ]  # fmt: skip
    assert not lines[2].endswith("  0 s")
    proofs[1].unlink()  # a part that is missing is made again, although the last one is there
    steps.run_steps([both], tmp_path / "logs", tmp_path, "make it")
    assert "done  3/3  b" in capsys.readouterr().out


def test_a_step_without_the_proof_of_a_part_has_failed(load: Any, tmp_path: Path) -> None:
    steps = load("steps")
    parts = tuple(steps.Part(name, tmp_path / name, None) for name in "ab")
    code = f"from pathlib import Path; Path({str(tmp_path / 'b')!r}).touch()"
    with pytest.raises(SystemExit, match="/a was not written"):
        steps.run_steps(
            [steps.Step("both", (sys.executable, "-c", code), tmp_path / "b", parts=parts)], tmp_path, tmp_path, ""
        )


def test_an_unknown_duration_gives_no_time_left(load: Any, tmp_path: Path, capsys: Any) -> None:
    steps = load("steps")
    first = step(steps, tmp_path, "first", touching(tmp_path / "first.done"), seconds=100.0)
    steps.run_steps(
        [first, step(steps, tmp_path, "second", touching(tmp_path / "second.done"))], tmp_path, tmp_path, ""
    )
    assert "left" not in capsys.readouterr().out


def test_ctrl_c_ends_the_processes_and_says_how_to_continue(tmp_path: Path) -> None:
    code = f"""
import signal, sys; sys.path.insert(0, {str(ROOT / "launch")!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born with it ignored
from pathlib import Path
from steps import Step, run_steps
folder = Path({str(tmp_path)!r})
sleep = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
command = (sys.executable, "-c", sleep)
both = tuple(Step(n, (*command, str(folder / n)), folder / (n + ".done"), after=()) for n in ("one", "two"))
run_steps(both, folder / "logs", folder, "make it")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    files = [tmp_path / "one", tmp_path / "two"]
    until = time.monotonic() + 60
    while not all(f.exists() and f.read_text() for f in files) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "stopped during: one and two; `make it` continues from here" in said
    for f in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(f.read_text()), 0)
