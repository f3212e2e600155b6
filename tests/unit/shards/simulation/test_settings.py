"""Errors of settings name the option."""

import math
from dataclasses import replace

import pytest

from shards.errors import ConfigError
from shards.simulation.settings import SimulationSettings


@pytest.mark.parametrize(
    ("field", "value", "option"),
    [
        ("speakers", (4, 2), "--speakers 4-2"),
        ("speakers", (0, 2), "--speakers 0-2"),
        ("turns", (0, 1), "--turns 0-1"),
        ("utterances_per_turn", (0, 1), "--words-per-turn 0-1"),
        ("seconds", (0.0, 9.0), "--seconds 0-9"),
        ("seconds", (math.nan, 9.0), "--seconds nan-9"),
        ("overlap", 1.5, "--overlap 1.5"),
        ("overlap", math.nan, "--overlap nan"),
        ("pause", -1.0, "--pause -1"),
        ("pause", math.inf, "--pause inf"),
        ("overlap_seconds", -0.5, "--overlap-seconds -0.5"),
        ("edge", (-1.0, 2.0), "--edge -1"),
        ("utterance_gap", (0.3, 0.1), "--word-gap 0.3-0.1"),
        ("snr_db", (20.0, 10.0), "--snr 20-10"),
    ],
)
def test_error_names_the_option(field: str, value: object, option: str) -> None:
    SimulationSettings().check()
    with pytest.raises(ConfigError, match=f"^{option}: "):
        replace(SimulationSettings(), **{field: value}).check()


def test_with_turns_the_seconds_may_begin_at_0() -> None:
    replace(SimulationSettings(), turns=(2, 3), seconds=(0.0, 6.0)).check()
    with pytest.raises(ConfigError, match=r"^--seconds 0-0: "):
        replace(SimulationSettings(), turns=(2, 3), seconds=(0.0, 0.0)).check()
