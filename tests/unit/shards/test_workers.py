"""Jobs over processes."""

import os
import signal
from contextlib import contextmanager

import pytest

from shards.errors import ConfigError, DataError
from shards.workers import process_pool, spread


@contextmanager
def places(place):
    """Says who did a job."""
    yield lambda job: (place, os.getpid(), job)


@contextmanager
def with_readers(place):
    """A process that has processes of its own."""
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


def test_one_place_is_this_process():
    assert list(spread(places, ["a"], ((i,) for i in range(3)))) == [("a", os.getpid(), i) for i in range(3)]


def test_each_place_is_a_process_and_every_job_is_done_once():
    done = list(spread(places, ["a", "b"], ((i,) for i in range(20))))
    assert sorted(job for _, _, job in done) == list(range(20))
    assert {place for place, _, _ in done} == {"a", "b"}
    assert len({pid for _, pid, _ in done} - {os.getpid()}) == 2


def test_only_a_few_jobs_are_taken_ahead():
    taken = []
    results = spread(places, ["a", "b"], ((taken.append(i), i)[1:] for i in range(100)))
    next(results)
    assert len(taken) < 10
    results.close()


@contextmanager
def cannot_begin(place):
    raise DataError(f"no {place} here")
    yield


@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_a_place_s_beginning_is_raised_as_it_is(count):
    with pytest.raises(DataError, match="no a here"):
        list(spread(cannot_begin, ["a"] * count, ((i,) for i in range(4))))


@pytest.mark.timeout(120)
def test_processes_with_processes_of_their_own_end():
    assert sorted(spread(with_readers, ["a", "b"], ((i,) for i in range(4)))) == [[i, i] for i in range(4)]


def test_errors_are_raised_as_they_are_and_a_killed_process_is_told():
    with pytest.raises(DataError, match="three"):
        list(spread(failing, ["a", "b"], ((i,) for i in range(5))))
    with pytest.raises(ConfigError, match="was killed"):
        list(spread(failing, ["a", "b"], ((i,) for i in (4, 5, 6))))
