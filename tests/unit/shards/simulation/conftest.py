"""Sources to mix from, shared by the tests of this folder."""

import itertools
from pathlib import Path

import pytest
import soundfile

from shards.manifests.manifest import (
    Recording,
    SpeakerInfo,
    read_manifest,
    read_speakers,
    write_manifest,
)
from shards.sample import SAMPLE_RATE, Segment
from shards.simulation.utterance_pool import UtterancePool
from tests.support.conversations import LANGUAGES, PERSONS
from tests.support.manifests import tone


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> Path:
    """Six voices of five persons, each with ten words of 0.2–0.4 s."""
    folder = tmp_path_factory.mktemp("words")
    recordings = []
    for voice, word in itertools.product(range(6), range(10)):
        key, seconds = f"v{voice}w{word}", 0.2 + 0.02 * word
        soundfile.write(folder / f"{key}.flac", tone(seconds, pitch=150 + 70 * voice, seed=word), SAMPLE_RATE)
        segment = Segment(f"toy:v{voice}", 0.0, seconds, f"w{word}")
        audio = str((folder / f"{key}.flac").absolute())
        recordings.append(Recording(key, "toy", "all", key, LANGUAGES[voice], audio, (segment,), duration=seconds))
    infos = [SpeakerInfo(f"toy:v{v}", "toy", LANGUAGES[v], None, PERSONS[v]) for v in range(6)]
    write_manifest(folder, recordings, infos, {})
    return folder


@pytest.fixture(scope="session")
def sources(words: Path) -> UtterancePool:
    return UtterancePool(read_manifest(words), read_speakers(words))
