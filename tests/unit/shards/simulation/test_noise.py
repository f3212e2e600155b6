"""Noise: recorded, babble, coloured."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import shards.simulation.noise as noise_module
from shards.cli import main
from shards.errors import ConfigError
from shards.manifests.manifest import AUDIT, SpeakerInfo, read_manifest, write_manifest
from shards.sample import SAMPLE_RATE, Segment
from shards.simulation.noise import add_noise, coloured_noise, open_noise
from shards.simulation.simulate import simulate
from shards.sound.audio import load
from tests.support.conversations import PERSONS, SHORT
from tests.support.manifests import recording


def test_snr_of_a_noise_folder_in_written_files(words: Path, tmp_path: Path) -> None:
    """Files with and without noise differ by the noise only, whose level is U[10, 20] dB below the speech."""
    rng = np.random.default_rng(5)
    for name, seconds in (("street", 3.0), ("fan", 60.0)):  # the first is shorter than a conversation
        (tmp_path / "noise").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "noise" / f"{name}.wav", rng.standard_normal(round(seconds * 8000)) * 0.1, 8000)
    calm = replace(SHORT, pause=0.05, overlap=0.0, utterances_per_turn=(1, 1))
    simulate([words], tmp_path / "clean" / "s", calm, count=40)
    simulate([words], tmp_path / "noisy" / "s", replace(calm, noise=str(tmp_path / "noise")), count=40)
    measured = []
    for clean, noisy in zip(*(read_manifest(tmp_path / n / "s") for n in ("clean", "noisy")), strict=True):
        assert clean.segments == noisy.segments
        a, b = load(clean.audio), load(noisy.audio)
        spoken = np.zeros(len(a), bool)
        for s in clean.segments:
            spoken[round(s.start * SAMPLE_RATE) : round(s.end * SAMPLE_RATE)] = True
        scale = np.dot(a, b) / np.dot(a, a)
        measured.append(10 * np.log10(np.mean(a[spoken] ** 2) / np.mean((b / scale - a) ** 2)))
    assert 9.5 < min(measured) < 11.5
    assert 18.5 < max(measured) < 20.5
    assert np.mean(measured) == pytest.approx(15, abs=1.5)


def test_babble_excludes_the_persons_of_the_conversation(words: Path) -> None:
    noise = open_noise(f"babble:{words}")
    assert noise is not None
    assert len(noise(np.random.default_rng(0), 5000, ["ann", "bob"])) == 5000
    with pytest.raises(ConfigError, match="every person"):
        noise(np.random.default_rng(0), 5000, set(PERSONS))


@pytest.mark.parametrize("most", [0, 20_000, 1 << 30])
def test_what_babble_keeps_decoded_is_bounded_and_changes_nothing(
    words: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    read: list[str] = []
    monkeypatch.setattr(noise_module, "load", lambda path, **span: read.append(path) or load(path, **span))

    def draw() -> np.ndarray:
        noise = open_noise(f"babble:{words}")
        assert isinstance(noise, noise_module.Babble)
        waves = [noise(np.random.default_rng(seed), 90_000, ["ann"]) for seed in range(3)]
        assert noise._recent.bytes <= noise_module.RECENT_BYTES
        return np.stack(waves)

    expected = draw()
    assert len(set(read)) == len(read)
    once = len(read)
    monkeypatch.setattr(noise_module, "RECENT_BYTES", most)
    assert np.array_equal(draw(), expected)
    assert (len(read) - once == once) == (most == 1 << 30)


def write_noise(folder: Path, name: str, wave: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / name, wave, SAMPLE_RATE)
    return folder / name


def test_silence_is_never_drawn_and_other_draws_stay_the_same(tmp_path: Path) -> None:
    """A silent file, one of a constant value, and a good one that is almost all silence."""
    sound = np.random.default_rng(1).standard_normal(8_000) * 0.1
    write_noise(tmp_path / "good", "a.wav", np.concatenate([np.zeros(160_000), sound]))
    write_noise(tmp_path / "all", "a.wav", np.concatenate([np.zeros(160_000), sound]))
    silent = {str(write_noise(tmp_path / "all", f"{n}.wav", np.full(32_000, v))) for n, v in (("b", 0.0), ("c", 0.25))}
    listed: list[str] = []
    for folder in ("good", "all"):
        noise = open_noise(str(tmp_path / folder), listed.append)
        assert noise is not None
        for seed in range(20):
            drawn = noise(np.random.default_rng(seed), 16_000, ())
            assert len(drawn) == 16_000
            assert np.ptp(drawn) > 0.01
            assert np.array_equal(drawn, noise(np.random.default_rng(seed), 16_000, ()))  # keyed by the generator alone
        assert set(listed) == (silent if folder == "all" else set())
    rng = np.random.default_rng(3)
    whole = load(tmp_path / "good" / "a.wav")
    rng.integers(1)
    start = int(rng.integers(len(whole)))
    kept = open_noise(str(tmp_path / "good"))(np.random.default_rng(3), 168_000, ())  # type: ignore[misc]
    assert np.array_equal(kept, np.roll(whole, -start))  # a stretch with sound is drawn as ever
    (tmp_path / "all" / "a.wav").unlink()
    with pytest.raises(ConfigError, match=r"all 2 recordings are silent, such as b.wav; name a folder"):
        open_noise(str(tmp_path / "all"))(np.random.default_rng(0), 100, ())  # type: ignore[misc]


def test_silent_noise_is_counted_and_named_also_after_an_interruption(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_noise(tmp_path / "noise", "a.wav", np.random.default_rng(1).standard_normal(48_000) * 0.1)
    silent = write_noise(tmp_path / "noise", "b.wav", np.zeros(48_000))
    command = ["simulate", str(words), str(tmp_path / "set"), "--seconds", "4-4", "--noise", str(tmp_path / "noise")]
    assert main([*command, "--count", "6", "--workers", "1"]) == 0
    captured = capsys.readouterr()
    assert "1 silent recordings of noise or rooms not used" in captured.out
    assert captured.err.count(f"warning: {silent} is silent") == 1
    audits = [(tmp_path / "set" / AUDIT).read_bytes()]
    assert json.loads(audits[0])["examples"] == {"silent recording of noise or a room": [str(silent)]}
    for path in sorted((tmp_path / "set").rglob("*.flac"))[:2]:
        path.unlink()
    assert main([*command, "--count", "6", "--workers", "2"]) == 0
    assert (tmp_path / "set" / AUDIT).read_bytes() == audits[0]
    silent.unlink()
    assert main([*command, "--count", "6"]) == 0
    assert json.loads((tmp_path / "set" / AUDIT).read_bytes())["skipped"] == {}


def test_silent_recordings_of_a_babble_are_drawn_again(tmp_path: Path) -> None:
    listed: list[str] = []
    wave = np.random.default_rng(1).standard_normal(16_000) * 0.1
    made = []
    for key, sound in (("a", wave), ("b", wave * 0), ("c", wave * 0)):
        path = write_noise(tmp_path, f"{key}.wav", sound)
        made.append(recording(path, key=key, segments=(Segment("c:A", 0.0, 1.0, "a"),)))
    write_manifest(tmp_path, made, [SpeakerInfo("c:A", "c", "zh")], {})
    noise = open_noise(f"babble:{tmp_path}", listed.append)
    assert noise is not None
    for seed in range(30):  # all six voices of one babble are silent in (2/3)^6 of the draws
        assert np.ptp(noise(np.random.default_rng(seed), 8_000, ())) > 0.01
    assert {x.partition(" ")[2] for x in listed} == {"(b)", "(c)"}
    write_manifest(tmp_path, made[1:], [SpeakerInfo("c:A", "c", "zh")], {})
    with pytest.raises(ConfigError, match=r"babble:.*: 100 draws were silent, the last of [bc]"):
        open_noise(f"babble:{tmp_path}")(np.random.default_rng(0), 100, ())  # type: ignore[misc]


def test_silent_noise_is_rejected() -> None:
    with pytest.raises(ConfigError, match="silent"):
        add_noise(np.ones(10, np.float32), np.zeros(10, np.float32), np.ones(10, bool), 10.0)
    assert np.mean(coloured_noise(np.random.default_rng(0), 16000) ** 2) == pytest.approx(1, rel=1e-3)


def test_linked_noise_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    soundfile.write(tmp_path / "pool/fan.wav", np.ones(SAMPLE_RATE) - 0.01 * (np.arange(SAMPLE_RATE) % 2), SAMPLE_RATE)
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise/linked").symlink_to(tmp_path / "pool")
    noise = open_noise(str(tmp_path / "noise"))
    assert noise is not None
    assert noise(np.random.default_rng(1), 100, ()).mean() > 0.9
