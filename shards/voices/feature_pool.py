"""A pool of processes that compute the features of a speaker model on an accelerator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np

from shards.errors import DataError
from shards.voices.enrolment import Clip, Features, load_features
from shards.workers import process_pool, report_killed_workers

CLIPS_PER_JOB = 16


@contextmanager
def feature_readers(count: int) -> Iterator[Features | None]:
    """Start `count` processes for :meth:`shards.voices.enrolment.Enroller.prepare`; None for 0."""
    if not count:
        yield None
        return
    with process_pool(count) as pool:
        yield partial(_in_pool, pool)


def _in_pool(pool: ProcessPoolExecutor, clips: Sequence[Clip]) -> Iterable[np.ndarray | DataError]:
    jobs = [clips[i : i + CLIPS_PER_JOB] for i in range(0, len(clips), CLIPS_PER_JOB)]
    with report_killed_workers():
        for features in pool.map(_read, jobs):
            yield from features


def _read(clips: Sequence[Clip]) -> list[np.ndarray | DataError]:
    return list(load_features(clips))
