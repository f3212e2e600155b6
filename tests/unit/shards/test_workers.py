"""Jobs over processes, and lines of progress."""

import itertools
import logging
import os
import signal
from contextlib import contextmanager

import pytest

from shards.errors import ConfigError, DataError
from shards.workers import process_pool, progress, run_jobs


@contextmanager
def places(place):
    """Returns which place and process ran a job."""
    yield lambda job: (place, os.getpid(), job)


@contextmanager
def with_readers(place):
    """A worker with a pool of processes."""
    with process_pool(2) as pool:
        yield lambda job: list(pool.map(abs, [-job, job]))


@contextmanager
def failing(place):
    def work(job):
        if job == 3:
            raise DataError("three")
        if job == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return job

    yield work


def test_one_place_runs_in_this_process():
    assert list(run_jobs(places, ["a"], ((i,) for i in range(3)))) == [("a", os.getpid(), i) for i in range(3)]


def test_each_place_is_a_process_and_every_job_runs_once():
    done = list(run_jobs(places, ["a", "b"], ((i,) for i in range(20))))
    assert sorted(job for _, _, job in done) == list(range(20))
    assert {place for place, _, _ in done} == {"a", "b"}
    assert len({pid for _, pid, _ in done} - {os.getpid()}) == 2


def test_only_a_few_jobs_are_taken_in_advance():
    taken = []
    results = run_jobs(places, ["a", "b"], ((taken.append(i), i)[1:] for i in range(100)))
    next(results)
    assert len(taken) < 10
    results.close()


@contextmanager
def failing_setup(place):
    raise DataError(f"no {place} here")
    yield


@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [1, 2])
def test_setup_errors_are_raised_unchanged(count):
    with pytest.raises(DataError, match="no a here"):
        list(run_jobs(failing_setup, ["a"] * count, ((i,) for i in range(4))))


@pytest.mark.timeout(120)
def test_workers_with_process_pools_end():
    assert sorted(run_jobs(with_readers, ["a", "b"], ((i,) for i in range(4)))) == [[i, i] for i in range(4)]


def test_job_errors_are_raised_unchanged_and_a_killed_worker_is_reported():
    with pytest.raises(DataError, match="three"):
        list(run_jobs(failing, ["a", "b"], ((i,) for i in range(5))))
    with pytest.raises(ConfigError, match="was killed"):
        list(run_jobs(failing, ["a", "b"], ((i,) for i in (4, 5, 6))))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """A clock of tqdm that a test sets."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_log_has_one_line_per_minute(clock, caplog: pytest.LogCaptureFixture) -> None:
    """Done, rate, time left; the end is a line too."""
    with caplog.at_level(logging.INFO, "shards"), progress(desc="pack", total=40, unit="rec") as bar:
        for _ in range(40):
            clock[0] += 10.0
            bar.set_postfix_str("2 bad", refresh=False)
            bar.update()
    lines = [r.getMessage() for r in caplog.records]
    assert [line.partition(" rec")[0] for line in lines] == [f"pack: {n}/40" for n in (6, 12, 18, 24, 30, 36, 40)]
    assert lines[0] == "pack: 6/40 rec, 10.00s/rec, 05:40 left, 01:00 elapsed, 2 bad"


def test_progress_of_an_iterable_without_a_length(clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "shards"):
        for number in progress(itertools.count(), unit="file"):
            clock[0] += 1.0
            if number == 100:
                break
    assert caplog.records[0].getMessage() == "60 file,  1.00file/s, 01:00 elapsed"


def test_a_short_command_writes_no_line(clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "shards"):
        assert list(progress(range(5), "x")) == list(range(5))
    with progress(total=5, disable=True) as bar:
        clock[0] += 1000
        bar.update(5)
    assert not caplog.records


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(progress(range(3), "x")) == [0, 1, 2]
    assert "x: 100%|" in capsys.readouterr().err
