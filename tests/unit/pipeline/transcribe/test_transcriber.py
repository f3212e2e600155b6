"""Real voices, the real detector and speaker model; the language model's part is played by the true turns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.decode.generate import Answer
from pipeline.decode.load_engine import Loaded
from pipeline.prompts import Mode, Prompt, prompt_pieces
from pipeline.transcribe.transcriber import TranscribeOptions, Transcriber
from shards.errors import AudioError, ConfigError, SpeakerError
from shards.manifests.clips import ClipRule
from shards.sample import SAMPLE_RATE
from tests.support.speech import package_cache
from tests.support.voices import PEOPLE, Reference, Said, clips, enrolment, extractor, talk
from tests.support.write_engine import WriteEngine

SHORT = ClipRule((15.0, 20.0), (10.0, 25.0))


def transcriber(write, **options) -> Transcriber:
    return Transcriber(write, extractor, TranscribeOptions(**{"rule": SHORT, **options}), cache=package_cache())


def constant(text: str, stop: str = "end"):
    return lambda prompts: [Answer(text, stop, 1) for _ in prompts]


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, list[Said]]:
    wave, said = talk(PEOPLE, 12)
    path = tmp_path_factory.mktemp("talk") / "meeting.wav"
    soundfile.write(path, wave, SAMPLE_RATE, subtype="FLOAT")
    return path, wave, said


def who(transcript, model: Reference) -> Counter:
    """(name, person) of every turn that was written."""
    assert len(transcript.turns) == len(model.written)
    return Counter((t.speaker, s.person) for t, s in zip(transcript.turns, model.written, strict=True))


def test_chunk_speakers_are_linked_by_voice(conversation):
    path, wave, said = conversation
    model = Reference(wave, said)
    transcript = transcriber(model).transcribe(path)
    assert len(transcript.chunks) >= 3
    assert len(who(transcript, model)) == 3  # each person has one name, and each name one person
    assert set(transcript.speakers) == {"Speaker 1", "Speaker 2", "Speaker 3"}
    errors = [abs(t.start - s.start) for t, s in zip(transcript.turns, model.written, strict=True)]
    assert np.median(errors) < 0.3
    assert all(a.end <= b.start + 1e-6 for a, b in pairwise(transcript.turns))
    assert not transcript.warnings


def test_enrolled_people_are_named_by_voice_if_the_model_does_not(conversation, tmp_path: Path):
    path, wave, said = conversation
    model = Reference(wave, said)
    people = [(p.upper(), enrolment(tmp_path, p)) for p in (PEOPLE[2], PEOPLE[0])]
    transcript = transcriber(model, naming="voice").transcribe(path, people)
    assert set(who(transcript, model)) == {
        ("IT-CARLO", "it-carlo"), ("RU-IVRVOICE", "ru-ivrvoice"), ("Speaker 1", "fr-june"),
    }  # fmt: skip
    assert transcript.names == ("RU-IVRVOICE", "IT-CARLO")


def test_names_that_the_model_writes_are_kept_and_others_are_named_by_voice(conversation, tmp_path: Path):
    """The model knows two of three people, and calls the third by an unknown name."""
    path, wave, said = conversation
    people = [(n, enrolment(tmp_path, p)) for n, p in zip(("Carlo", "June", "Irina"), PEOPLE, strict=True)]
    model = Reference(wave, said, dict(zip(PEOPLE, ("Carlo", "June", "Bob"), strict=True)))
    transcript = transcriber(model, batch=2).transcribe(path, people)
    assert set(who(transcript, model)) == {("Carlo", "it-carlo"), ("June", "fr-june"), ("Irina", "ru-ivrvoice")}
    assert {t.written for t in transcript.turns} == {"Carlo", "June", "Bob"}
    assert model.prompts[0].vectors.shape == (3, 192)
    assert np.allclose(np.linalg.norm(model.prompts[0].vectors, axis=1), 1, atol=1e-5)


def test_without_a_speaker_model_names_hold_for_a_chunk(conversation):
    path, wave, said = conversation
    used = Transcriber(
        Reference(wave, said),
        lambda: pytest.fail("loaded"),
        TranscribeOptions(rule=SHORT, naming="none"),
        cache=package_cache(),
    )
    transcript = used.transcribe(path)
    assert all(t.speaker == f"chunk {t.chunk + 1} {t.written}" for t in transcript.turns)
    with pytest.raises(ConfigError, match="naming is 'none'"):
        used.transcribe(path, [("Mike", path)])


def test_the_transcript_grows_chunk_by_chunk(conversation):
    path, wave, said = conversation
    counts = [len(t.chunks) for t in transcriber(Reference(wave, said), naming="none").stream(path)]
    assert counts == [*range(1, counts[-1] + 1), counts[-1]]


def test_a_model_of_stage_1_writes_words_only(conversation, tmp_path: Path):
    path, _, _ = conversation
    words = Transcriber(
        constant("ciao"), extractor, TranscribeOptions(rule=SHORT), registers=False, cache=package_cache()
    )
    transcript = words.transcribe(path)
    assert {(t.speaker, t.text) for t in transcript.turns} == {(None, "ciao")}
    with pytest.raises(ConfigError, match="stage 1"):
        words.transcribe(path, [("Mike", enrolment(tmp_path, PEOPLE[0]))])


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("vad", ["silero", "energy"])
@pytest.mark.parametrize("seconds", [0.1, 5.0])
def test_silence_gives_an_empty_transcript(tmp_path: Path, seconds: float, vad: str):
    soundfile.write(tmp_path / "a.wav", np.zeros(int(seconds * SAMPLE_RATE)), SAMPLE_RATE)
    transcript = transcriber(lambda _: pytest.fail("asked"), vad=vad).transcribe(tmp_path / "a.wav")
    assert (transcript.turns, transcript.seconds, transcript.error) == ([], seconds, None)
    assert "no speech in" in transcript.warnings[0]


def test_a_tenth_of_a_second_of_speech_is_too_short(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", clips(PEOPLE[0])[0][8000:9600], SAMPLE_RATE)
    transcript = transcriber(lambda _: pytest.fail("asked")).transcribe(tmp_path / "a.wav")
    assert transcript.turns == []


def test_music_is_no_speech(tmp_path: Path):
    t = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
    chords = [sum(np.sin(2 * np.pi * f * k * t) / k for f in (220, 277, 330) for k in (1, 2, 3)) for _ in range(1)]
    beat = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * 2 * t))
    soundfile.write(tmp_path / "a.wav", 0.1 * chords[0] * beat, SAMPLE_RATE)
    transcript = transcriber(lambda _: pytest.fail("asked")).transcribe(tmp_path / "a.wav")
    assert "no speech in" in transcript.warnings[0]


def test_speech_without_a_turn_is_warned_of(conversation):
    """A model that was trained for a few steps ends its answer at once."""
    path, _, _ = conversation
    transcript = transcriber(constant("")).transcribe(path)
    assert transcript.speech > 20
    assert not transcript.turns
    (warning,) = transcript.warnings
    assert f"{path}: the model wrote nothing for {transcript.speech:.1f} s of speech" in warning


def test_a_stretch_without_speech_is_not_decoded(tmp_path: Path):
    """Two people, a minute of nothing between them: two chunks that hold only speech."""
    first, second = clips(PEOPLE[0])[5], clips(PEOPLE[1])[5]
    quiet = np.random.default_rng(0).normal(0, 3e-4, 60 * SAMPLE_RATE)
    soundfile.write(tmp_path / "a.wav", np.concatenate([first, quiet, second]), SAMPLE_RATE)
    transcript = transcriber(constant("spk0: yes")).transcribe(tmp_path / "a.wav")
    assert len(transcript.chunks) == 2
    assert sum(c.end - c.start for c in transcript.chunks) < (len(first) + len(second)) / SAMPLE_RATE + 1
    assert transcript.speakers == ["Speaker 1", "Speaker 2"]


def test_ten_hours_need_little_memory(tmp_path: Path):
    """A sparse file of ten hours; somebody speaks after five."""
    import resource
    import wave as waves

    path, said = tmp_path / "long.wav", clips(PEOPLE[0])[0]
    with waves.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(SAMPLE_RATE)
        f.setnframes(36_000 * SAMPLE_RATE)
        f.writeframes(b"")
    header = bytearray(path.read_bytes()[:44])
    size = 36_000 * SAMPLE_RATE * 2
    header[4:8], header[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
    path.write_bytes(header)
    with path.open("r+b") as f:
        f.truncate(44 + size)
        f.seek(44 + 18_000 * SAMPLE_RATE * 2)
        f.write((said * 32767).astype("<i2").tobytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    transcript = transcriber(constant("spk0: yes")).transcribe(path)
    assert transcript.seconds == 36_000
    (turn,) = transcript.turns
    assert 17_999.5 < turn.start < turn.end < 18_000.5 + len(said) / SAMPLE_RATE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB; whole it would be 2.3 GB


def test_eight_channels_of_another_rate(conversation, tmp_path: Path):
    import soxr

    _, wave, _ = conversation
    eight = soxr.resample(wave, SAMPLE_RATE, 44_100)[:, None] * np.array([[1, 0, 1, 0, 1, 0, 1, 0]])
    soundfile.write(tmp_path / "a.flac", eight, 44_100)
    heard: list[float] = []

    def write(prompts):
        heard.extend(float(np.abs(p.waveform).max()) for p in prompts)
        return constant("spk0: yes")(prompts)

    mean = transcriber(write, naming="none").transcribe(tmp_path / "a.flac")
    one = transcriber(write, naming="none", channel=2).transcribe(tmp_path / "a.flac")
    assert mean.seconds == pytest.approx(len(wave) / SAMPLE_RATE, abs=0.01)
    assert max(heard[: len(mean.chunks)]) == pytest.approx(max(heard[len(mean.chunks) :]) / 2, rel=0.1)
    assert len(one.chunks) == len(mean.chunks) >= 2
    with pytest.raises(AudioError, match="no channel 8: it has 8"):
        transcriber(write, channel=8).transcribe(tmp_path / "a.flac")


def test_mp3(conversation, tmp_path: Path):
    _, wave, _ = conversation
    soundfile.write(tmp_path / "a.mp3", wave[: 30 * SAMPLE_RATE], SAMPLE_RATE)
    transcript = transcriber(constant("spk0: yes"), naming="none").transcribe(tmp_path / "a.mp3")
    assert transcript.error is None
    assert transcript.seconds == pytest.approx(30, abs=0.2)
    assert transcript.chunks


def test_damaged_file_is_transcribed_up_to_the_damage(conversation, tmp_path: Path):
    _, wave, _ = conversation
    soundfile.write(tmp_path / "whole.flac", wave, SAMPLE_RATE)
    data = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    transcript = transcriber(constant("spk0: yes"), naming="none").transcribe(tmp_path / "cut.flac")
    assert transcript.error
    assert "cut.flac" in transcript.error
    assert len(transcript.chunks) >= 1
    assert 5 < transcript.seconds < len(wave) / SAMPLE_RATE * 0.7


@pytest.mark.parametrize("content", [b"", b"RIFF", b"this is no audio" * 100])
def test_files_without_audio_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=r"a\.wav"):
        transcriber(constant("")).transcribe(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="no such file"):
        transcriber(constant("")).transcribe(tmp_path / "b.wav")


def test_two_enrolments_of_one_name_are_averaged(tmp_path: Path):
    one = transcriber(constant(""))
    first, second = (enrolment(tmp_path, PEOPLE[0], i) for i in (0, 1))
    both = one.enrol([("Carlo", first), ("Carlo", second)])
    assert (both.names, both.warnings) == (("Carlo",), ())
    singles = [one.enrol([("Carlo", p)]).vectors[0] for p in (first, second)]
    assert both.vectors[0] @ singles[0] < 0.999
    assert min(both.vectors[0] @ s for s in singles) > singles[0] @ singles[1]


def test_two_people_under_one_name_are_warned_of(tmp_path: Path):
    people = [("Mike", enrolment(tmp_path, PEOPLE[0])), ("Mike", enrolment(tmp_path, PEOPLE[1]))]
    assert "both enrolled as Mike, but they sound unlike" in transcriber(constant("")).enrol(people).warnings[0]


def test_one_person_under_two_names_is_warned_of(tmp_path: Path):
    people = [("Mike", enrolment(tmp_path, PEOPLE[0])), ("Lucy", enrolment(tmp_path, PEOPLE[0], 1, 2))]
    assert "sound like one person" in transcriber(constant("")).enrol(people).warnings[0]


@pytest.mark.parametrize("person", PEOPLE)
def test_an_enrolment_clip_with_two_voices_is_warned_of(tmp_path: Path, person: str):
    other = PEOPLE[PEOPLE.index(person) - 1]
    soundfile.write(tmp_path / "two.wav", np.concatenate([*clips(person)[:2], *clips(other)[:2]]), SAMPLE_RATE)
    assert "two people" in transcriber(constant("")).enrol([("Mike", tmp_path / "two.wav")]).warnings[0]
    assert transcriber(constant("")).enrol([("Mike", enrolment(tmp_path, person, 0, 3))]).warnings == ()


def test_invalid_enrolments_are_refused(tmp_path: Path):
    soundfile.write(tmp_path / "quiet.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    one = transcriber(constant(""))
    with pytest.raises(SpeakerError, match="no speech to enrol Mike from"):
        one.enrol([("Mike", tmp_path / "quiet.wav")])
    invalid = ("", "a:b", "a;", "<start>", "a\rb", "a\u2028b", "a\x00", "a  b", " a", "a" * 65, "?")
    for name in invalid:
        with pytest.raises(ConfigError, match="invalid name"):
            one.enrol([(name, tmp_path / "quiet.wav")])
    soundfile.write(tmp_path / "short.wav", clips(PEOPLE[0])[0][: int(1.2 * SAMPLE_RATE)], SAMPLE_RATE)
    assert "2–10 s" in one.enrol([("Mike", tmp_path / "short.wav")]).warnings[0]


def test_loop_is_shown_once_and_kept_raw(conversation):
    path, _, _ = conversation
    raw = "spk0: hello\nspk1: yes " + "and then " * 40
    transcript = transcriber(constant(raw, "loop"), naming="none").transcribe(path)
    assert {c.raw for c in transcript.chunks} == {raw}
    assert {t.text for t in transcript.turns} == {"hello", "yes and then"}
    assert all("stopped in a loop" in c.notes[0] for c in transcript.chunks)


def test_threads_wait_for_each_other_before_one_engine():
    """A page that was stopped ends its chunk while the next one begins."""
    inside: list[int] = []

    def write(prompts: Sequence[Prompt]) -> list[Answer]:
        assert not inside, "two batches at a time"
        inside.append(len(prompts))
        time.sleep(0.05)  # another thread comes meanwhile
        inside.clear()
        return [Answer(str(len(p.waveform)), "end", 1) for p in prompts]

    asked = [[Prompt(tuple(prompt_pieces(Mode.NO)), np.zeros(10 * i + n)) for n in range(2)] for i in range(1, 4)]
    transcriber = Transcriber.of(Loaded(WriteEngine(write), "", False), TranscribeOptions(), model="m")
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(transcriber.write, asked, timeout=30))
    assert [[a.text for a in answers] for answers in found] == [[str(len(p.waveform)) for p in ps] for ps in asked]
