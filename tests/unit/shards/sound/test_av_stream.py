"""Containers that FFmpeg reads: times of audio that begins late or has a hole."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.transcribe.audio_stream import blocks
from shards.errors import AudioError
from shards.manifests.audio_files import audio_info
from shards.sound.audio import load
from tests.support.manifests import tone

CODECS = {"mp4": "aac", "m4a": "aac", "mkv": "libopus", "webm": "libopus", "mov": "pcm_s16le", "mka": "flac"}


def container(path: Path, spoken: list[tuple[float, float]], video_s: float = 0.0, rate: int = 48_000) -> Path:
    """Write tones at (start, end) seconds, and black frames for `video_s`."""
    with av.open(str(path), "w") as out:
        sound = out.add_stream(CODECS[path.suffix[1:]], rate=rate)
        sound.layout = "mono"
        picture = out.add_stream("mpeg4", rate=10) if video_s else None
        if picture:
            picture.width = picture.height = 32
            for number in range(round(video_s * 10)):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                frame.pts = number
                out.mux(picture.encode(frame))
            out.mux(picture.encode(None))
        for start, end in spoken:
            wave = (tone(end - start, rate, pitch=440) * 32_000).astype(np.int16)
            for first in range(0, len(wave), 960):
                part = wave[first : first + 960]
                frame = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = round(start * rate) + first
                resampled = av.AudioResampler(sound.format.name, "mono", rate).resample(frame)
                for x in resampled:
                    x.pts, x.time_base = frame.pts, frame.time_base
                    out.mux(sound.encode(x))
        out.mux(sound.encode(None))
    return path


def stretches(wave: np.ndarray) -> list[tuple[float, float]]:
    """Return where the tone is heard, to 10 ms."""
    loud = np.abs(wave[: len(wave) // 160 * 160]).reshape(-1, 160).max(axis=1) > 0.1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(int), [0]])))
    return [(a / 100, b / 100) for a, b in edges.reshape(-1, 2)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_audio_that_begins_after_the_video_begins_late(tmp_path: Path, suffix: str) -> None:
    path = container(tmp_path / f"a.{suffix}", [(2.0, 3.0)], video_s=3.0)
    ((start, end),) = stretches(load(path))
    assert (start, end) == (pytest.approx(2.0, abs=0.06), pytest.approx(3.0, abs=0.06))


@pytest.mark.parametrize("suffix", ["mp4", "m4a", "mkv", "webm", "mka"])  # a mov of PCM has no times
def test_hole_is_silence(tmp_path: Path, suffix: str) -> None:
    path = container(tmp_path / f"a.{suffix}", [(1.0, 2.0), (14.5, 15.0)])
    wave = load(path)
    found = stretches(wave)
    assert np.allclose(found, [(1.0, 2.0), (14.5, 15.0)], atol=0.06), found
    assert np.allclose(stretches(np.concatenate(list(blocks(path)))), found, atol=0.011)
    assert audio_info(path).seconds == pytest.approx(15.0, abs=0.06)
    part = load(path, start=14.0, duration=0.9)
    assert stretches(part)[0][0] == pytest.approx(0.5, abs=0.06)


def test_clock_that_jumps_is_not_filled(tmp_path: Path) -> None:
    path = container(tmp_path / "a.mkv", [(20_000.0, 20_001.0), (40_000.0, 40_001.0)])
    assert audio_info(path).seconds == pytest.approx(2.0, abs=0.1)


def test_video_without_audio_is_an_error(tmp_path: Path) -> None:
    path = container(tmp_path / "a.mp4", [], video_s=1.0)
    for reads in (load, audio_info, lambda p: list(blocks(p))):
        with pytest.raises(AudioError, match=r"a\.mp4"):
            reads(path)


def test_joined_mp4_are_read_to_their_end(tmp_path: Path) -> None:
    one = container(tmp_path / "1.m4a", [(0.0, 1.0)])
    both = tmp_path / "both.m4a"
    both.write_bytes(2 * one.read_bytes())
    assert audio_info(both).seconds == pytest.approx(2 * audio_info(one).seconds)
    assert len(stretches(load(both))) >= 1
