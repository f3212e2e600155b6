"""Jobs over processes."""

import os
import signal
from contextlib import contextmanager

import pytest

from shards.errors import ConfigError, DataError
from shards.workers import process_pool, run_jobs


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
