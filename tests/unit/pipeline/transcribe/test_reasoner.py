"""Transcription by dialogues: people who are tones, and an engine that hears their pitch and uses the cache."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.dialogue.build import DialogueRules
from pipeline.export.folder import export
from pipeline.prompts import AudioPiece
from pipeline.reasoner.cache import CacheRules
from pipeline.reasoner.loop import LoopLimits, Request
from pipeline.stages import Base
from pipeline.transcribe.cli import main
from pipeline.transcribe.load_model import dialogue_rules
from pipeline.transcribe.outputs import render
from pipeline.transcribe.reasoner import KnownPeople, seconds_each
from shards.errors import AudioError, ConfigError, SpeakerError
from shards.manifests.clips import ClipRule
from shards.sample import SAMPLE_RATE
from tests.support.listeners import (
    ANNA,
    BERT,
    CARL,
    TURNS,
    Listener,
    loud,
    people,
    record,
    tone,
    transcriber,
)
from tests.support.training import finished_run, make_base, sharpen


@pytest.fixture(scope="module")
def meeting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, float, float]]]:
    path = tmp_path_factory.mktemp("talk") / "meeting.wav"
    return path, record(path, TURNS)


def test_names_stay_across_chunks_and_times_are_the_models(meeting):
    path, said = meeting
    engine = Listener()
    transcript = transcriber(engine).transcribe(path)
    assert len(transcript.chunks) >= 4
    assert people(transcript) == {"Speaker 1": {"I am 200"}, "Speaker 2": {"I am 500"}, "Speaker 3": {"I am 900"}}
    assert len(transcript.turns) == len(said)
    for turn, (_, start, end) in zip(transcript.turns, said, strict=True):
        assert (turn.start, turn.end) == (pytest.approx(start, abs=0.02), pytest.approx(end, abs=0.02))
    assert all(a.start <= b.start for a, b in pairwise(transcript.turns))
    assert transcript.times == "model"
    assert json.loads(render(transcript, "json"))["times"] == "model"
    assert {t.written for t in transcript.turns} == {"Speaker 1", "Speaker 2", "Speaker 3"}
    assert not engine.open
    shown = [p for p in engine.requests[-1].questions[0] if isinstance(p, AudioPiece)]
    assert len(shown) > 1
    assert shown[-1] == AudioPiece()


def test_without_the_cache_labels_hold_for_a_chunk_and_chunks_are_read_together(meeting):
    path, _ = meeting
    engine = Listener()
    transcript = transcriber(engine, cache=None, limits=LoopLimits(batch=3)).transcribe(path)
    assert all(t.speaker == f"chunk {t.chunk + 1} {t.written}" for t in transcript.turns)
    assert max(sum(len(said) for said in people(transcript).values() if len(said) > 1), 0) == 0
    assert len({t.speaker for t in transcript.turns}) > 3
    assert all(not r.clip.known for r in engine.requests)


def test_enrolled_people_have_names_and_others_numbers(meeting, tmp_path: Path):
    path, _ = meeting
    for name, pitch in (("carl", CARL), ("anna", ANNA), ("anna2", ANNA)):
        record(tmp_path / f"{name}.wav", [(pitch, 4.0)])
    engine = Listener("Female")
    used = transcriber(engine)
    clips = [("Carl", "carl"), ("Anna", "anna"), ("Anna", "anna2")]
    known = used.enrol((n, tmp_path / f"{f}.wav") for n, f in clips)
    assert [(p.name, p.text, p.gender) for p in known.people] == [
        ("Carl", "I am 900", "female"), ("Anna", "I am 200 I am 200", "female"),
    ]  # fmt: skip
    assert [round(len(p.audio) / SAMPLE_RATE, 1) for p in known.people] == [pytest.approx(4.0, abs=0.2)] + [
        pytest.approx(8.0, abs=0.4)
    ]
    assert not known.warnings
    for _ in range(2):  # a recording leaves nothing behind
        transcript = used.transcribe(path, known)
        assert people(transcript) == {"Anna": {"I am 200"}, "Female 3": {"I am 500"}, "Carl": {"I am 900"}}
        assert transcript.names == ("Carl", "Anna")
    assert {t.written for t in transcript.turns if t.speaker == "Carl"} == {"Female 1"}


def test_enrolments_that_cannot_be_used(tmp_path: Path):
    record(tmp_path / "two.wav", [(ANNA, 2.0), (BERT, 2.0)])
    soundfile.write(tmp_path / "silent.wav", np.zeros(32_000), SAMPLE_RATE)
    used = transcriber(Listener())
    (doubt,) = used.enrol([("Anna", tmp_path / "two.wav")]).warnings
    assert "the model hears 2 people" in doubt
    with pytest.raises(SpeakerError, match=r"silent.wav: no speech to enrol Anna from"):
        used.enrol([("Anna", tmp_path / "silent.wav")])
    with pytest.raises(ConfigError, match="the model calls people so who are not enrolled"):
        used.enrol([("Male 2", tmp_path / "two.wav")])
    with pytest.raises(ConfigError, match="naming is 'none'"):
        transcriber(Listener(), cache=None).enrol([("Anna", tmp_path / "two.wav")])
    assert used.enrol([]) == KnownPeople()
    assert seconds_each(2, CacheRules()) == 10.0
    assert seconds_each(5, CacheRules()) == 4.0
    assert seconds_each(40, CacheRules()) == 1.0
    with pytest.raises(ConfigError, match="41 people are enrolled; a cache of 40 s holds at most 40"):
        seconds_each(41, CacheRules())


class Confused(Listener):
    """Answers the second chunk with text without tags, whatever is asked."""

    def _reply(self, request: Request) -> str:
        return "hello" if request.clip.draw == "chunk 2" else super()._reply(request)


def test_a_chunk_without_an_answer_does_not_end_the_transcript(meeting):
    path, _ = meeting
    transcript = transcriber(Confused(), limits=LoopLimits(attempts=3)).transcribe(path)
    assert transcript.error is None
    chunk = transcript.chunks[1]
    assert (chunk.turns, chunk.stop) == ((), "no valid reply in 3 attempts")
    assert chunk.notes[0].startswith("3 attempts in 0 turns; first rejected: neither <think>")
    assert "understood up to 0.00 s" in chunk.notes[1]
    assert [c.stop for c in transcript.chunks].count("end") == len(transcript.chunks) - 1
    assert set(people(transcript)) == {"Speaker 1", "Speaker 2", "Speaker 3"}


def test_a_damaged_recording_is_transcribed_up_to_the_damage(meeting, tmp_path: Path):
    path, _ = meeting
    wave, rate = soundfile.read(path)
    soundfile.write(tmp_path / "cut.flac", wave, rate)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) * 2 // 3])
    transcript = transcriber(Listener()).transcribe(tmp_path / "cut.flac")
    assert "cut.flac" in transcript.error
    assert transcript.turns
    (tmp_path / "no.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError):
        transcriber(Listener()).transcribe(tmp_path / "no.wav")


def test_memory_does_not_grow_with_the_recording(tmp_path: Path):
    def peak(minutes: int) -> int:
        path = tmp_path / "long.wav"
        with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "FLOAT") as file:
            for i in range(minutes * 15):
                file.write(np.concatenate([np.zeros(SAMPLE_RATE, np.float32), tone((ANNA, BERT, CARL)[i % 3], 3.0)]))

        class Deaf(Listener):
            """Keeps no request."""

            def answer(self, requests):
                found = super().answer(requests)
                self.requests.clear()
                return found

        used = transcriber(Deaf())
        tracemalloc.start()
        try:
            assert len(used.transcribe(path).turns) > minutes * 14
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(6) < peak(2) + 2_000_000  # the audio has 15 MB more


# ------------------------------------------------------------------------------------------------------------ bad input

ODD = {
    "cut": lambda text: text.removesuffix("</answer>"),
    "nested": lambda text: text.replace("<answer>", "<think>so<answer>"),
    "full-width brackets": lambda text: text.replace("[", "【").replace("]", "】").replace(",", "，"),
    "minutes": lambda text: text.replace("[", "[00:").replace(", ", ", 0:"),
    "on one row": lambda text: text.replace("\n", " "),
}


@pytest.mark.parametrize("odd", list(ODD))
def test_replies_in_other_forms_are_read(meeting, odd: str):
    class Odd(Listener):
        def _reply(self, request: Request) -> str:
            text = super()._reply(request)
            return ODD[odd](text) if request.replies else text

    path, said = meeting
    transcript = transcriber(Odd()).transcribe(path)
    assert people(transcript) == {"Speaker 1": {"I am 200"}, "Speaker 2": {"I am 500"}, "Speaker 3": {"I am 900"}}
    assert [t.start for t in transcript.turns] == [pytest.approx(start, abs=0.02) for _, start, _ in said]
    notes = {note for c in transcript.chunks for note in c.notes}
    assert notes == {"cut": {"<answer> is not closed"}, "nested": {"<think> is not closed"}}.get(odd, set())


def test_a_box_of_another_chunk_is_asked_for_again(meeting):
    class Lost(Listener):
        def _reply(self, request: Request) -> str:
            if not request.replies and request.sampling.seed < 2:
                return "<think>People.</think><box>[30.0, 33.0]</box>"
            return super()._reply(request)

    path, said = meeting
    transcript = transcriber(Lost()).transcribe(path)
    assert len(transcript.turns) == len(said)
    assert all("[30.0, 33.0] is outside of" in c.notes[0] for c in transcript.chunks)


@pytest.mark.parametrize("speakers", [1, 30])
def test_one_speaker_and_thirty(tmp_path: Path, speakers: int):
    """Thirty people in one chunk, each for half a second: too short for the cache, which stays within its bounds."""

    class Crowd(Listener):
        def _reply(self, request: Request) -> str:
            if not request.replies:
                return super()._reply(request)
            spans = loud(request.clip.audio)
            lines = [
                f"Male {i % speakers + 1} [{a / 16000:.2f}, {b / 16000:.2f}]: yes" for i, (a, b) in enumerate(spans)
            ]
            return "<answer>\n" + "\n".join(lines) + "\n</answer>"

    record(tmp_path / "a.wav", [(ANNA, 0.5)] * 40)
    rules = CacheRules(per_speaker=1, min_seconds=0.3, max_seconds=1.0, total_seconds=4.0)
    engine = Crowd()
    transcript = transcriber(engine, cache=rules, rule=ClipRule((16.0, 18.0), (14.0, 20.0))).transcribe(
        tmp_path / "a.wav"
    )
    assert len(transcript.turns) == 40
    assert (len(transcript.speakers) == 1) == (speakers == 1)
    shown = [sum(len(k.audio) for k in r.clip.known) / SAMPLE_RATE for r in engine.requests]
    assert 0 < max(shown) <= 4.0


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run`` of stage 13 that has learned nothing, ``exported``, ``plain`` of stage 4, and recordings."""
    folder = tmp_path_factory.mktemp("models")
    sharpen(make_base(folder / "base").llm)
    run = finished_run(folder)
    shutil.copytree(run, folder / "plain")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("stage: 4", "stage: 13").replace("numbered: false", "numbered: true"))
    export(run, folder / "exported")
    export(folder / "plain", folder / "exported-plain")
    record(folder / "meeting.wav", [(ANNA, 1.0), (BERT, 1.0), (ANNA, 1.0)])
    record(folder / "anna.wav", [(ANNA, 1.5)])
    return folder


def arguments(folder: Path, model: str, out: Path, *more: str) -> list[str]:
    return [
        str(folder / "meeting.wav"), "--model", str(folder / model), "--out", str(out), "--seconds", "2-3",
        "--vad", "energy", "--device", "cpu", "--attempts", "1", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("base", [Base.QWEN2_5_OMNI, Base.QWEN3_OMNI])
def test_a_run_on_a_thinker_holds_the_same_dialogues(models: Path, tmp_path: Path, base: Base):
    from tests.support.datasets import make_dataset
    from tests.support.decoding import decode_with
    from tests.support.finished_runs import make_finished_run
    from tests.support.thinkers import make_thinker, thinker_config

    config = thinker_config(make_thinker(tmp_path / "thinker", base), base)
    run = make_finished_run(tmp_path / "run", config, stage=13, init_from="stage12")
    line = arguments(models, "run", tmp_path / "out", "--reasoner", f"--enrol=Anna={models / 'anna.wav'}")
    line[line.index("--model") + 1] = str(run)
    assert main(line) == 0
    content = json.loads((tmp_path / "out" / "meeting.json").read_text())
    assert (content["times"], content["enrolled"], content["complete"]) == ("model", ["Anna"], True)
    assert all(c["stop"] == "no valid reply in 1 attempts" for c in content["chunks"])
    make_dataset(tmp_path / "test", samples=2, speakers_per_sample=(1, 2), dim=16, seed=9)
    decode_with(run, tmp_path / "test", tmp_path / "decoded", attempts=2, max_new_tokens=8)
    rows = [json.loads(row) for row in (tmp_path / "decoded" / "no.jsonl").read_text().splitlines()]
    assert {(r["format"], r["stop"]) for r in rows} == {("speaker-reasoner", "no valid reply in 2 attempts")}


def test_a_run_and_its_export_write_the_same_transcript(models: Path, tmp_path: Path):
    enrolled = f"--enrol=Anna={models / 'anna.wav'}"
    assert main(arguments(models, "run", tmp_path / "a", "--reasoner", enrolled)) == 0
    assert main(arguments(models, "exported", tmp_path / "b", "--reasoner", enrolled)) == 0
    content, other = (json.loads((tmp_path / name / "meeting.json").read_text()) for name in "ab")
    assert (content["times"], content["enrolled"], content["complete"]) == ("model", ["Anna"], True)
    assert content["chunks"]
    assert all(c["stop"] == "no valid reply in 1 attempts" for c in content["chunks"])
    assert "Anna: the model understands no words of the enrolment" in content["warnings"]
    assert content["chunks"] == other["chunks"]
    assert dialogue_rules(models / "run") == dialogue_rules(models / "exported") == DialogueRules(numbered=True)
    assert "dialogue" not in json.loads((models / "exported-plain" / "config.json").read_text())


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("run", [], "was trained on dialogues: add --reasoner"),
        ("exported", [], "was trained on dialogues: add --reasoner"),
        ("plain", ["--reasoner"], "was trained without dialogues"),
        ("exported-plain", ["--reasoner"], "was trained without dialogues"),
        ("run", ["--reasoner", "--known-seconds", "0.5"], "speaker cache"),
        ("run", ["--reasoner", "--naming", "none", "--enrol", "Anna={}/anna.wav"], "naming is 'none'"),
    ],
)
def test_wrong_models_and_options_are_explained(models: Path, tmp_path: Path, capsys, model, more, message):
    assert main(arguments(models, model, tmp_path, *(m.format(models) for m in more))) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--naming", "voice"], ["--ui"]])
def test_options_that_do_not_go_with_dialogues(models: Path, tmp_path: Path, capsys, more: list[str]):
    with pytest.raises(SystemExit):
        main(arguments(models, "run", tmp_path, "--reasoner", *more))
    assert "--reasoner" in capsys.readouterr().err
