"""Turn-taking statistics of a corpus, estimated and reproduced by simulation."""

import json
from pathlib import Path

import numpy as np
import pytest

from shards.cli import main
from shards.errors import ConfigError, ManifestError
from shards.manifests.manifest import Recording, SpeakerInfo, read_manifest, write_manifest
from shards.sample import SAMPLE_RATE, Segment
from shards.simulation.conversation import draw_layout
from shards.simulation.settings import SimulationSettings
from shards.simulation.turn_statistics import QUANTILES, TurnStatistics, estimate, read_statistics
from shards.simulation.utterance_pool import SourceUtterance, UtterancePool


def meeting(key: str, *rows: tuple[str, float, float]) -> Recording:
    segments = tuple(Segment(f"c:{s}", a, b, "x") for s, a, b in rows)
    return Recording(key, "c", "train", key, "en", "/a.wav", segments, duration=1000.0)


def test_estimate_by_hand() -> None:
    first = meeting("m", ("a", 0, 10), ("b", 4, 5), ("a", 11, 12), ("b", 11.5, 14), ("b", 14.25, 15), ("a", 16, 17))
    found = estimate([first, meeting("alone", ("a", 0, 1), ("a", 2, 3))])
    # b inside a: overlap 1; a continues after a, which ended last: pause 1; b over a: 0.5; b continues: 0.25; a: 1
    assert found.transitions == 5
    assert (found.same, found.overlap) == (2 / 5, 2 / 3)
    assert (found.same_pause[0], found.same_pause[-1]) == (0.25, 1.0)
    assert (found.overlap_seconds[0], found.overlap_seconds[-1]) == (0.5, 1.0)
    assert set(found.other_pause) == {1.0}
    with pytest.raises(ManifestError, match="no speaker changes"):
        estimate([meeting("alone", ("a", 0, 1))])


REAL = TurnStatistics(
    same=0.4,
    overlap=0.45,
    same_pause=tuple(np.linspace(0.2, 1.0, QUANTILES)),
    other_pause=tuple(np.linspace(0.0, 2.0, QUANTILES) ** 2 / 2),
    overlap_seconds=tuple(np.linspace(0.05, 1.5, QUANTILES)),
    transitions=1000,
)


def sources() -> UtterancePool:
    """Utterances longer than any overlap."""
    made = UtterancePool([speech(s) for s in "abcd"], [SpeakerInfo(f"c:{s}", "c", "en", None, s) for s in "abcd"])
    for voices in made.voices.values():
        for speaker, (one, *_) in voices.items():
            voices[speaker][:] = [_longer(one, n) for n in range(32_000, 64_000, 4_000)]
    return made


def speech(speaker: str) -> Recording:
    return Recording(f"u{speaker}", "c", "all", "s", "en", "/a.wav", (Segment(f"c:{speaker}", 0, 2, "x"),))


def _longer(u: SourceUtterance, samples: int) -> SourceUtterance:
    return SourceUtterance(u.key, u.audio, None, 0.0, samples, u.speaker, u.person, "en", f"w{samples}")


def test_simulation_reproduces_the_statistics() -> None:
    settings = SimulationSettings(speakers=(3, 3), seconds=(600.0, 600.0), statistics=REAL)
    made = [draw_layout(sources(), settings, 0, k) for k in range(12)]
    recordings = [
        Recording(f"k{i}", "c", "t", f"k{i}", "en", "/a.wav", x.segments, duration=600.0) for i, x in enumerate(made)
    ]
    found = estimate(recordings)
    assert found.transitions > 2000
    assert found.same == pytest.approx(REAL.same, abs=0.04)
    assert found.overlap == pytest.approx(REAL.overlap, abs=0.04)
    for name in ("same_pause", "other_pause", "overlap_seconds"):
        there, back = np.array(getattr(REAL, name)), np.array(getattr(found, name))
        assert np.abs(there - back)[5:-5].max() < 0.15, name
    assert draw_layout(sources(), settings, 0, 7) == made[7]


def test_concatenation_has_no_gaps_and_overlaps() -> None:
    layout = draw_layout(sources(), SimulationSettings(pause=0.0, overlap=0.0), 0, 3)
    assert layout.num_samples == 50 * SAMPLE_RATE
    for a, b in zip(layout.turns, layout.turns[1:], strict=False):
        assert b.start - a.end in (0, 1_600) if a.speaker == b.speaker else b.start == a.end


def test_command_writes_a_readable_file(tmp_path: Path, capsys) -> None:
    rows = [("a", 4.0 * i, 4.0 * i + 3.0) for i in range(5)] + [("b", 4.0 * i + 2.5, 4.0 * i + 3.5) for i in range(5)]
    write_manifest(tmp_path / "real", [meeting("m", *rows)], [], {})
    file = tmp_path / "turns.json"
    assert main(["statistics", str(tmp_path / "real"), str(file)]) == 0
    assert "9 transitions" in capsys.readouterr().out
    found = read_statistics(file)
    assert (found.overlap, found.same) == (5 / 9, 0.0)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 9}))
    for broken in (file, tmp_path / "none.json"):
        with pytest.raises(ConfigError, match="invalid statistics file"):
            read_statistics(broken)


def test_statistics_reach_the_manifest(tmp_path: Path) -> None:
    import soundfile

    from tests.support.manifests import tone

    recordings = []
    for s in "ab":
        soundfile.write(tmp_path / f"{s}.flac", tone(2.0, pitch=200, seed=ord(s)), SAMPLE_RATE)
        segment = (Segment(f"c:{s}", 0, 2, "x"),)
        recordings.append(Recording(f"u{s}", "c", "all", s, "en", str(tmp_path / f"{s}.flac"), segment, duration=2.0))
    write_manifest(tmp_path / "u", recordings, [], {})
    rows = [("a", 4.0 * i, 4.0 * i + 3.0) for i in range(5)] + [("b", 4.0 * i + 2.5, 4.0 * i + 3.5) for i in range(5)]
    write_manifest(tmp_path / "real", [meeting("m", *rows)], [], {})
    assert main(["statistics", str(tmp_path / "real"), str(tmp_path / "t.json")]) == 0
    out = ["--count", "3", "--speakers", "2-2", "--seconds", "20-20", "--statistics", str(tmp_path / "t.json")]
    assert main(["simulate", str(tmp_path / "u"), str(tmp_path / "sim"), *out, "--workers", "1"]) == 0
    audit = json.loads((tmp_path / "sim/audit.json").read_text())
    assert audit["settings"]["statistics"]["transitions"] == 9
    assert audit["overlap"] > 0.05
    assert all(r.duration == 20.0 for r in read_manifest(tmp_path / "sim"))
    assert main(["simulate", str(tmp_path / "u"), str(tmp_path / "s2"), *out, "--concatenate"]) == 1
