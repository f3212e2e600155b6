"""Clips: every segment whole in exactly one clip; cuts in silence if possible."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.cli import main
from shards.manifests.clips import ClipRule, cut, cut_points, foreign_seconds, silences
from shards.manifests.manifest import Recording, read_manifest, write_manifest
from shards.sample import Segment
from tests.support.manifests import recording

RULE = ClipRule()


def meeting(spans: list[tuple[float, float]], total: float, start: float = 0.0) -> Recording:
    segments = tuple(Segment(f"c:{i % 3}", a, b, f"w{i}") for i, (a, b) in enumerate(sorted(spans)))
    return recording("m.wav", key="m", segments=segments, duration=total, start=start)


spans = st.lists(st.tuples(st.floats(0, 400), st.floats(0.2, 25)).map(lambda p: (p[0], p[0] + p[1])), max_size=80)


@settings(max_examples=150, deadline=None)
@given(spans=spans, seed=st.integers(0, 5), number=st.integers(0, 2))
def test_every_segment_is_whole_in_exactly_one_clip(spans: list[tuple[float, float]], seed: int, number: int) -> None:
    origin = meeting(spans, 430.0, start=100.0)
    clips = cut(origin, RULE, seed, number)
    words = [s.text for c in clips for s in c.segments]
    assert sorted(words) == sorted(s.text for s in origin.segments)
    assert len({c.key for c in clips}) == len(clips)
    by_text = {s.text: s for s in origin.segments}
    for clip in clips:
        assert clip.duration is not None
        for segment in clip.segments:
            before = by_text[segment.text]
            assert 0 <= segment.start < segment.end <= clip.duration + 1e-9
            assert segment.start + clip.start - 100.0 == pytest.approx(before.start)
            assert segment.end - segment.start == pytest.approx(before.end - before.start)
        assert clip.duration <= RULE.widened[1] + 25 + 1e-6


def test_cuts_are_in_silence_and_within_the_range() -> None:
    origin = meeting([(t, t + 2.5) for t in np.arange(0, 600, 3.0)], 600.0)
    clips = cut(origin, RULE, seed=1)
    assert all(40 <= (c.duration or 0) <= 50 for c in clips[:-1])
    assert sum(foreign_seconds(c, origin) for c in clips) == 0
    assert sum(c.duration or 0 for c in clips) == pytest.approx(600)


def test_without_silence_cuts_cross_the_fewest_segments() -> None:
    talk = [(0.0, 35.0), (20.0, 58.0), (35.0, 70.0), (57.0, 100.0)]
    origin = meeting(talk, 100.0)
    clips = cut(origin, RULE, seed=0)
    assert clips[1].start == 35.0  # one segment is crossed there, at 57 s two
    assert foreign_seconds(clips[1], origin) == pytest.approx(58 - 35)
    assert clips[0].duration == pytest.approx(58)  # extends to the end of its last segment


@settings(max_examples=150, deadline=None)
@given(spans=spans, seed=st.integers(0, 5))
def test_foreign_speech_is_counted_and_minimal(spans: list[tuple[float, float]], seed: int) -> None:
    """Compared with a count in 10 ms steps; no other cut in the range would cross fewer segments."""
    origin = meeting([(round(a, 2), round(b, 2)) for a, b in spans], 430.0)
    clips = cut(origin, RULE, seed)
    owner = {s.text: i for i, c in enumerate(clips) for s in c.segments}
    for number, clip in enumerate(clips):
        ticks = np.arange(clip.start, clip.start + (clip.duration or 0), 0.01) + 0.005
        heard = sum(
            float(((s.start < ticks) & (ticks < s.end)).sum()) * 0.01
            for s in origin.segments
            if owner[s.text] != number
        )
        assert foreign_seconds(clip, origin) == pytest.approx(heard, abs=0.05 * len(spans) + 0.02)
    rng = np.random.default_rng(seed)
    points = cut_points(origin.segments, 430.0, RULE, rng)
    for before, point in pairwise(points[:-1]):
        crossed = sum(s.start < point < s.end for s in origin.segments)
        low, high = before + RULE.widened[0], before + RULE.widened[1]
        begins = [s.start for s in origin.segments if low <= s.start <= high]
        if crossed and point <= high:
            assert not any(low <= (a + b) / 2 <= high for a, b in silences(origin.segments, 430.0))
            assert crossed == min(sum(s.start < b < s.end for s in origin.segments) for b in begins)


@settings(max_examples=100, deadline=None)
@given(spans=spans, seed=st.integers(0, 5))
def test_clips_cover_all_speech(spans: list[tuple[float, float]], seed: int) -> None:
    """A test set of clips contains all speech."""
    origin = meeting(spans, 430.0)
    covered = [(c.start, c.start + (c.duration or 0)) for c in cut(origin, RULE, seed)]
    for s in origin.segments:
        assert any(a <= s.start and s.end <= b + 1e-9 for a, b in covered)


def test_clip_extends_if_no_segment_starts_in_the_range() -> None:
    """A long turn is not cut: the next clip would contain only speech that is not in its target."""
    origin = meeting([(0.0, 100.0), (101.0, 104.0), (104.5, 130.0)], 140.0)
    clips = cut(origin, RULE, seed=0)
    assert clips[0].duration == pytest.approx(100.0)
    assert [len(c.segments) for c in clips] == [1, 2]
    assert sum(foreign_seconds(c, origin) for c in clips) == 0


def test_passes_differ_and_seeds_are_reproducible() -> None:
    origin = meeting([(t, t + 1.0) for t in np.arange(0, 300, 2.0)], 300.0)
    assert cut(origin, RULE, 3) == cut(origin, RULE, 3)
    assert [c.start for c in cut(origin, RULE, 3, 1)] != [c.start for c in cut(origin, RULE, 3, 0)]


def test_silences() -> None:
    segments = [Segment("a", 1, 3, "x"), Segment("b", 2, 5, "y"), Segment("a", 7, 8, "z")]
    assert silences(segments, 10) == [(0.0, 1), (5, 7), (8, 10)]


def test_command_reads_durations_from_audio_files(tmp_path) -> None:
    soundfile.write(tmp_path / "m.wav", np.zeros(8000 * 100), 8000)
    segments = tuple(Segment("c:A", float(t), t + 1.0, "w") for t in range(0, 99, 2))
    write_manifest(tmp_path / "in", [recording(tmp_path / "m.wav", segments=segments)], [], {})
    assert main(["clips", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    clips = list(read_manifest(tmp_path / "out"))
    assert sum(len(c.segments) for c in clips) == len(segments)
    assert (clips[-1].start + (clips[-1].duration or 0)) == pytest.approx(100)
    audit = json.loads((tmp_path / "out/audit.json").read_text())
    assert (audit["recordings"], audit["clips"], audit["clips_longer_than_the_range"]) == (1, len(clips), 0)
    assert main(["clips", str(tmp_path / "in"), str(tmp_path / "twice"), "--passes", "2"]) == 0
    twice = list(read_manifest(tmp_path / "twice"))
    assert len({c.key for c in twice}) == len(twice) > len(clips)
    assert sum(len(c.segments) for c in twice) == 2 * len(segments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "10-70", "--widened", "20-60"], "--seconds 10-70 is not inside --widened 20-60"),
        (["--seconds", "0-5"], "--seconds 0-5: a clip is longer than 0 s"),
        (["--widened", "0-60"], "--widened 0-60: a clip is longer"),
        (["--widened", "42-60"], "--seconds 40-50 is not inside --widened 42-60"),
    ],
)
def test_error_about_a_range_names_the_option(tmp_path: Path, options: list[str], message: str, capsys) -> None:
    assert main(["clips", str(tmp_path / "in"), str(tmp_path / "out"), *options]) == 1
    assert message in capsys.readouterr().err


def test_the_wider_range_is_in_proportion(tmp_path: Path) -> None:
    """15-20 s widens as 40-50 s does."""
    segments = tuple(Segment("a", float(i), i + 0.9, "x") for i in range(200))
    write_manifest(tmp_path / "in", [Recording("m", "c", "s", "m", "en", "/m.wav", segments, duration=200.0)], [], {})
    for seconds, widened in (("15-20", "11.25-24"), ("40-50", "30-60")):
        assert main(["clips", str(tmp_path / "in"), str(tmp_path / "out"), "--seconds", seconds]) == 0
        audit = json.loads((tmp_path / "out/audit.json").read_text())
        assert audit["clip_rule"].startswith(f"{seconds} s, cut in silence; else {widened} s")
