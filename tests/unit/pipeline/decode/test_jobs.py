"""Modes and ranges of distractors as jobs of a decoding."""

from __future__ import annotations

import pytest

from pipeline.decode.jobs import PAPER_BINS, DecodeJob, default_modes, jobs_of
from shards.errors import ConfigError


def test_jobs():
    assert jobs_of("no,over", "1-50") == [DecodeJob("no", None, "no"), DecodeJob("over", (1, 50), "over")]
    assert [j.name for j in jobs_of("over", "paper")] == [f"over-{b}" for b in PAPER_BINS]
    assert (default_modes(1), default_modes(3)) == ("asr", "no,match,over")


@pytest.mark.parametrize(
    ("modes", "n_ov"), [("yes", "1-50"), ("", "1-50"), ("over", "5-1"), ("over", "0-3"), ("over", "x"), ("over", "1-²")]
)
def test_bad_jobs_are_refused(modes: str, n_ov: str):
    with pytest.raises(ConfigError):
        jobs_of(modes, n_ov)
