"""Settings, sources and layouts for tests of simulated conversations."""

from shards.simulation.conversation import Layout, draw_layout
from shards.simulation.settings import SimulationSettings
from shards.simulation.utterance_pool import UtterancePool

SHORT = SimulationSettings(seconds=(0.0, 8.0), turns=(2, 5), utterances_per_turn=(1, 3), gain_db=0.0)

PERSONS = ["ann", "ann", "bob", "cyd", "dee", "eve"]  # the first two ids are one person

LANGUAGES = ["en", "es", "zh", "en", "zh", "en"]


def layouts(sources: UtterancePool, settings: SimulationSettings, count: int = 60, seed: int = 0) -> list[Layout]:
    return [draw_layout(sources, settings, seed, k) for k in range(count)]
