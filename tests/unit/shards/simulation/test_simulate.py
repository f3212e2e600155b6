"""Simulated conversations: exact, repeatable, within their limits."""

import hashlib
import itertools
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.cli import main
from shards.errors import ConfigError, StorageError
from shards.manifests.manifest import (
    RECORDINGS,
    SPEAKERS,
    Recording,
    SpeakerInfo,
    read_manifest,
    read_speakers,
    write_manifest,
)
from shards.manifests.summary import speech_and_overlap
from shards.sample import SAMPLE_RATE, Segment
from shards.simulation.conversation import Layout, draw
from shards.simulation.noise import add_noise, coloured_noise, open_noise
from shards.simulation.recorded_files import content_hashes
from shards.simulation.render import render
from shards.simulation.rooms import convolve, open_rooms, room_responses
from shards.simulation.settings import SimulationSettings
from shards.simulation.simulate import fingerprints, simulate
from shards.simulation.utterance_pool import UtterancePool
from shards.sound.audio import load
from shards.storage.local import atomic_file
from tests.support.manifests import tone

SHORT = SimulationSettings(seconds=(0.0, 8.0), turns=(2, 5), utterances_per_turn=(1, 3), gain_db=0.0)
PERSONS = ["ann", "ann", "bob", "cyd", "dee", "eve"]  # the first two ids are one person
LANGUAGES = ["en", "es", "zh", "en", "zh", "en"]


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def sources(words: Path) -> UtterancePool:
    return UtterancePool(read_manifest(words), read_speakers(words))


def layouts(sources: UtterancePool, settings: SimulationSettings, count: int = 60, seed: int = 0) -> list[Layout]:
    return [draw(sources, settings, seed, k) for k in range(count)]


def test_a_conversation_is_a_function_of_seed_and_number(sources: UtterancePool) -> None:
    once = layouts(sources, SHORT)
    assert once == layouts(sources, SHORT)
    assert draw(sources, SHORT, 0, 37) == once[37]  # not of the ones before it
    assert draw(sources, SHORT, 1, 37) != once[37]


def test_limits_hold(sources: UtterancePool) -> None:
    drawn = layouts(sources, SHORT, 200)
    for layout in drawn:
        speakers = dict.fromkeys(t.speaker for t in layout.turns)
        assert 2 <= len(speakers) <= 4
        assert len({PERSONS[int(s[-1])] for s in speakers}) == len(speakers)
        assert max(2, len(speakers)) <= len(layout.turns) <= 5
        assert layout.num_samples <= 8.0 * SAMPLE_RATE
        assert all(1 <= len(t.pieces) <= 3 for t in layout.turns)
        assert all(a.start < b.start and a.speaker != b.speaker for a, b in itertools.pairwise(layout.turns))
        assert layout.turns[-1].end < layout.num_samples
    assert {len({t.speaker for t in x.turns}) for x in drawn} == {2, 3, 4}


def test_at_most_two_speak_at_once_and_nobody_over_himself(sources: UtterancePool) -> None:
    drawn = layouts(sources, replace(SHORT, overlap=1.0, overlap_seconds=2.0), 100)
    assert any(b.start < a.end for x in drawn for a, b in itertools.pairwise(x.turns))
    for layout in drawn:
        for turn in layout.turns:
            others = [t for t in layout.turns if t is not turn and t.start < turn.end and turn.start < t.end]
            assert all(t.speaker != turn.speaker for t in others)
            depth = [sum(t.start <= o.start < t.end for t in layout.turns) for o in [turn, *others]]
            assert max(depth) <= 2


def test_no_overlap_where_none_is_asked_for(sources: UtterancePool) -> None:
    for layout in layouts(sources, replace(SHORT, overlap=0.0)):
        assert speech_and_overlap([(s.start, s.end) for s in layout.segments])[1] == 0


def test_length_is_filled_where_no_turns_are_given(sources: UtterancePool) -> None:
    drawn = layouts(sources, replace(SHORT, turns=None, seconds=(6.0, 8.0)))
    assert all(6.0 <= layout.num_samples / SAMPLE_RATE <= 8.0 for layout in drawn)
    assert len({layout.num_samples for layout in drawn}) > 50
    for layout in layouts(sources, SimulationSettings(), 10):  # the paper's setting
        assert layout.num_samples == 50 * SAMPLE_RATE
        assert 2 <= len({t.speaker for t in layout.turns}) <= 4
        assert layout.turns[-1].end > 48 * SAMPLE_RATE  # filled, not padded


def test_words_are_joined_as_the_language_writes(sources: UtterancePool) -> None:
    for layout in layouts(sources, SHORT):
        for turn in layout.turns:
            separator = "" if turn.pieces[0].utterance.language == "zh" else " "
            assert turn.text == separator.join(p.utterance.text for p in turn.pieces)


def test_one_language_only(sources: UtterancePool) -> None:
    drawn = layouts(sources, replace(SHORT, speakers=(2, 2), same_language=True))
    assert {x.language for x in drawn} == {"en", "zh"}
    with pytest.raises(ConfigError, match="no language of the sources has 4 speakers"):
        layouts(sources, replace(SHORT, speakers=(4, 4), same_language=True), 1)


def test_the_sound_is_the_sum_of_the_sources_at_their_places(sources: UtterancePool) -> None:
    layout = next(x for x in layouts(sources, replace(SHORT, overlap=1.0)) if len(x.turns) == 5)
    expected = np.zeros(layout.num_samples)
    for piece in (p for t in layout.turns for p in t.pieces):
        wave = load(piece.utterance.audio)
        expected[piece.start : piece.start + len(wave)] += wave
    assert np.abs(render(layout, SHORT) - expected).max() < 1e-6


def test_snr_is_what_was_asked_for(sources: UtterancePool) -> None:
    layout = layouts(sources, SHORT, 1)[0]
    clean = render(layout, SHORT)
    spoken = np.zeros(layout.num_samples, bool)
    for piece in (p for t in layout.turns for p in t.pieces):
        spoken[piece.start : piece.start + piece.utterance.num_samples] = True
    for asked in (0.0, 10.0, 20.0):
        noisy = render(layout, replace(SHORT, noise="coloured", snr_db=(asked, asked)), open_noise("coloured"))
        scale = np.dot(noisy, clean) / np.dot(clean, clean)  # the mixture may have been scaled as a whole
        noise = noisy / scale - clean
        measured = 10 * np.log10(np.mean(clean[spoken] ** 2) / np.mean(noise**2))
        assert measured == pytest.approx(asked, abs=0.3)


def test_snr_of_a_noise_folder_measured_on_what_is_written(words: Path, tmp_path: Path) -> None:
    """With and without noise, the files differ by the noise alone; its level is U[10, 20] dB below the speech."""
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


def test_rooms_of_recorded_responses(tmp_path: Path, words: Path) -> None:
    """Each subfolder is a room; a response is cut at its direct sound, which gets the height 1."""
    for room, place in itertools.product("ab", range(3)):
        response = np.zeros(32_000)
        response[100 + place] = -0.5
        response[1700 + place] = 0.05 * (1 + place) * (1 if room == "a" else -1)  # 0.1 s later
        path = tmp_path / "rirs" / room / f"{place}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([response, response * 0], 1), 16_000, subtype="FLOAT")
    rooms = open_rooms(str(tmp_path / "rirs"))
    assert rooms is not None
    for seed in range(20):
        made = rooms(np.random.default_rng(seed), 3)
        echoes = [float(r[1600]) for r in made]
        assert all(r[0] == pytest.approx(1, abs=1e-4) for r in made)
        assert len({e > 0 for e in echoes}) == 1  # one room …
        assert len({round(abs(e), 3) for e in echoes}) == 3  # … three places
    simulate([words], tmp_path / "out" / "s", replace(SHORT, rooms=str(tmp_path / "rirs")), count=3)
    simulate([words], tmp_path / "dry" / "s", SHORT, count=3)
    for wet, dry in zip(*(read_manifest(tmp_path / n / "s") for n in ("out", "dry")), strict=True):
        assert wet.segments == dry.segments
        assert not np.array_equal(load(wet.audio), load(dry.audio))
    with pytest.raises(ConfigError, match="no recordings there"):
        open_rooms(str(tmp_path / "nothing"))


def test_rooms_keep_times_and_levels_of_the_direct_sound() -> None:
    responses = room_responses(np.random.default_rng(3), 3)
    assert len(responses) == 3
    for response in responses:
        assert response[0] == 1.0
        assert np.abs(response[1:]).max() <= 1.0
        assert np.sum(response[1:] ** 2) > 0.01  # it does reverberate
    click = np.zeros(100, np.float32)
    click[40] = 1
    assert np.argmax(convolve(click, responses[0])) == 40


def test_babble_leaves_out_the_persons_of_the_conversation(words: Path) -> None:
    noise = open_noise(f"babble:{words}")
    assert noise is not None
    assert len(noise(np.random.default_rng(0), 5000, ["ann", "bob"])) == 5000
    with pytest.raises(ConfigError, match="every person"):
        noise(np.random.default_rng(0), 5000, set(PERSONS))


def test_silent_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match="silent"):
        add_noise(np.ones(10, np.float32), np.zeros(10, np.float32), np.ones(10, bool), 10.0)
    assert np.mean(coloured_noise(np.random.default_rng(0), 16000) ** 2) == pytest.approx(1, rel=1e-3)


def content(folder: Path) -> dict[str, str]:
    files = [*folder.rglob("*.flac"), folder / "recordings.jsonl"]
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_workers_change_nothing_and_longer_sets_begin_alike(words: Path, tmp_path: Path) -> None:
    hard = replace(SHORT, rooms="pyroomacoustics", noise="coloured", overlap=0.5)
    simulate([words], tmp_path / "a" / "set", hard, count=6, workers=1)
    simulate([words], tmp_path / "b" / "set", hard, count=6, workers=2)
    assert content(tmp_path / "a" / "set") == content(tmp_path / "b" / "set")
    simulate([words], tmp_path / "c" / "set", hard, count=9)
    longer = content(tmp_path / "c" / "set")
    assert all(longer[k] == v for k, v in content(tmp_path / "a" / "set").items() if k.endswith("flac"))


def test_an_interrupted_set_goes_on_and_another_setting_starts_anew(words: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    simulate([words], out, SHORT, count=5)
    whole = content(out)
    files = sorted(out.rglob("*.flac"))
    files[1].unlink()
    kept = files[2].stat().st_mtime_ns
    simulate([words], out, SHORT, count=5, workers=2)
    assert content(out) == whole
    assert files[2].stat().st_mtime_ns == kept
    simulate([words], out, replace(SHORT, noise="coloured"), count=5)
    noisy = content(out)
    assert all(noisy[k] != v for k, v in whole.items() if k.endswith("flac"))


def test_other_recordings_of_noise_start_anew(words: Path, tmp_path: Path) -> None:
    noise, out = tmp_path / "noise", tmp_path / "set"
    noise.mkdir()
    for seconds in (3, 4):
        soundfile.write(noise / "hum.wav", np.random.default_rng(seconds).normal(0, 0.1, seconds * 16_000), 16_000)
        simulate([words], out, replace(SHORT, noise=str(noise)), count=3)
        fresh = tmp_path / f"fresh{seconds}" / "set"
        simulate([words], fresh, replace(SHORT, noise=str(noise)), count=3)
        assert content(out) == content(fresh)


def test_another_manifest_behind_babble_is_other_noise(words: Path, tmp_path: Path) -> None:
    source = shutil.copytree(words, tmp_path / "words")
    before = content_hashes(f"babble:{source}", "none")
    (source / SPEAKERS).write_text((source / SPEAKERS).read_text().replace('"bob"', '"ann"'))
    assert content_hashes(f"babble:{source}", "none") != before
    assert content_hashes("coloured", "pyroomacoustics") == []


def test_another_person_behind_a_voice_starts_anew(words: Path, tmp_path: Path) -> None:
    """Who is one person decides who may meet: the folder of a set is of its speakers.jsonl too."""
    source = shutil.copytree(words, tmp_path / "words")
    simulate([source], tmp_path / "o/set", SHORT, count=6)
    told = (source / SPEAKERS).read_text()
    (source / SPEAKERS).write_text(told.replace('"bob"', '"ann"'))
    for out in ("o/set", "fresh/set"):
        simulate([source], tmp_path / out, SHORT, count=6)
    sets = [content(tmp_path / o / "set") for o in ("o", "fresh")]
    assert sets[0] == sets[1]


def test_a_set_that_is_being_written_is_left_alone(words: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    simulate([words], out, SHORT, count=3)
    before = content(out)
    with atomic_file(out / RECORDINGS) as file:
        file.write((out / RECORDINGS).read_bytes())
        with pytest.raises(StorageError, match="another process is writing it"):
            simulate([words], out, replace(SHORT, noise="coloured"), count=3)
    assert content(out) == before


def test_a_set_killed_while_it_replaces_another_is_no_manifest(words: Path, tmp_path: Path, monkeypatch) -> None:
    """The other one's recordings.jsonl would name this one's audio."""
    out = tmp_path / "set"
    simulate([words], out, SHORT, count=3)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shards.simulation.simulate.render", killed)
    with pytest.raises(KeyboardInterrupt):
        simulate([words], out, replace(SHORT, noise="coloured"), count=3)
    assert not (out / RECORDINGS).exists()


def test_a_killed_worker_is_told(words: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("shards.simulation.simulate.render", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ConfigError, match="a worker process was killed"):
        simulate([words], tmp_path / "set", SHORT, count=3, workers=2)


def test_hours(words: Path, tmp_path: Path) -> None:
    audit = simulate([words], tmp_path / "s", SHORT, hours=0.01)
    assert 0.01 <= audit["audio_hours"] < 0.01 + 8 / 3600


def common(one: Path, other: Path) -> set[object]:
    """Conversations and audio files that two sets share."""
    audio = [{hashlib.sha256(Path(r.audio).read_bytes()).digest() for r in read_manifest(f)} for f in (one, other)]
    return (fingerprints(one) & fingerprints(other)) | (audio[0] & audio[1])


def test_disjoint_sets(words: Path, tmp_path: Path) -> None:
    one = replace(SHORT, speakers=(1, 1), turns=(1, 1), utterances_per_turn=(1, 2))
    simulate([words], tmp_path / "train", one, count=200, seed=0)
    simulate([words], tmp_path / "other", one, count=60, seed=1)
    assert common(tmp_path / "train", tmp_path / "other")
    simulate([words], tmp_path / "test", one, count=60, seed=1, disjoint_from=[tmp_path / "train"])
    assert not common(tmp_path / "train", tmp_path / "test")
    all_words = replace(one, utterances_per_turn=(1, 1))
    simulate([words], tmp_path / "all", all_words, count=700)
    with pytest.raises(ConfigError, match="different from those of the other sets"):
        simulate([words], tmp_path / "none", all_words, count=1, disjoint_from=[tmp_path / "all"])


def test_the_command_and_its_manifest(words: Path, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "sdr.v1")
    options = ["--count", "4", "--turns", "2-3", "--seconds", "0-6", "--workers", "1", "--seed", "7", "--split", "dev"]
    assert main(["simulate", str(words), out, *options]) == 0
    made = list(read_manifest(out))
    assert [r.key for r in made] == [f"sdr_v1-7-{k:07d}" for k in range(4)]
    for recording in made:
        assert recording.split == "dev"
        assert len(load(recording.audio)) == round((recording.duration or 0) * SAMPLE_RATE)
        assert recording.sources
        assert all(k.startswith("v") for k in recording.sources)
    assert main(["simulate", str(words), out, "--count", "1", "--speakers", "6-6"]) == 1
    assert "5 different persons" in capsys.readouterr().err
    assert main(["simulate", str(words), out, "--count", "1", "--speakers", "4-2"]) == 1
    assert main(["simulate", str(words), out, "--count", "1", "--seconds", "0-0.2"]) == 1
    assert "allow more seconds" in capsys.readouterr().err
