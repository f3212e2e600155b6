"""Recordings side by side: each as it is alone, in fewer rounds of the engine; a fault leaves the others whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.reasoner.loop import LoopLimits, Request
from pipeline.transcribe.stream import Update
from pipeline.transcribe.transcript import Transcript
from shards.errors import AudioError, ModelError
from shards.sample import SAMPLE_RATE
from tests.support.listeners import ANNA, BERT, CARL, TURNS, Listener, people, record, transcriber

MANY = [TURNS, [(CARL, 2.0), (BERT, 2.0)] * 6, [(BERT, 3.0)], [(ANNA, 2.0), (CARL, 2.0)] * 4, TURNS[::-1]]
NAMES = [{"Speaker 1": {"I am 200"}, "Speaker 2": {"I am 500"}, "Speaker 3": {"I am 900"}}, {
    "Speaker 1": {"I am 900"}, "Speaker 2": {"I am 500"}}]  # fmt: skip


class Rounds(Listener):
    """Counts its calls and the dialogues in each; replies depend on the random numbers as well."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds: list[int] = []
        self.most = 0

    def answer(self, requests: Sequence[Request]) -> list[str | None]:
        self.rounds.append(len(requests))
        found = super().answer(requests)
        self.most = max(self.most, len(self.open))
        return found

    def _reply(self, request: Request) -> str:
        if request.clip.draw == "chunk 2" and request.sampling.seed < 2:  # late by two attempts
            return "hello"
        return super()._reply(request)


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("talks")
    paths = [folder / f"talk-{i}.wav" for i in range(len(MANY))]
    for path, turns in zip(paths, MANY, strict=True):
        record(path, turns)
    return paths


def ends(updates: Sequence[Update]) -> dict[int, Update]:
    found = [u for u in updates if u.ended]
    assert len({u.number for u in found}) == len(found)
    return {u.number: u for u in found}


@pytest.mark.parametrize("cached", [True, False])
def test_each_recording_is_transcribed_as_alone_in_fewer_rounds(talks, cached: bool):
    options = {"limits": LoopLimits(batch=3)} if cached else {"limits": LoopLimits(batch=3), "cache": None}
    single = Rounds()
    alone = [transcriber(single, **options).transcribe(path) for path in talks]
    together = Rounds()
    updates = list(transcriber(together, **options).stream_all(talks))
    found = ends(updates)
    assert [found[i].transcript for i in range(len(talks))] == alone
    if cached:
        assert [people(t) for t in alone[:2]] == NAMES
        assert set(single.rounds) == {1}
        assert len(together.rounds) <= len(single.rounds) / 2
    assert len(together.rounds) < len(single.rounds)
    assert sum(together.rounds) == sum(single.rounds)
    assert max(together.rounds) == together.most == 3
    assert not together.open
    order = [u.number for u in updates]
    assert order != sorted(order)


class Muted(Listener):
    """Cannot take a second chunk."""

    def answer(self, requests: Sequence[Request]) -> list[str | None]:
        if any(r.clip.draw == "chunk 2" for r in requests):
            raise ModelError("too long")
        return super().answer(requests)


def test_a_fault_of_one_recording_leaves_the_others_whole(talks, tmp_path: Path):
    (tmp_path / "no.wav").write_bytes(b"no audio")
    wave, rate = soundfile.read(talks[0])
    soundfile.write(tmp_path / "cut.flac", wave, rate)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) * 2 // 3])
    soundfile.write(tmp_path / "silent.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    audio = [tmp_path / "no.wav", tmp_path / "cut.flac", tmp_path / "silent.wav", tmp_path / "none.wav", *talks[:2]]
    used = transcriber(Rounds(), limits=LoopLimits(batch=2))
    found = ends(list(used.stream_all(audio)))
    assert sorted(found) == list(range(6))
    assert [isinstance(found[i].fault, AudioError) for i in range(6)] == [True, False, False, True, False, False]
    assert "cut.flac" in (found[1].transcript.error or "")
    assert found[1].transcript.turns
    assert "no speech" in found[2].transcript.warnings[0]
    assert [found[4].transcript, found[5].transcript] == [used.transcribe(path) for path in talks[:2]]


def test_chunks_that_the_model_cannot_take_end_the_recordings_that_asked(talks):
    engine = Muted()
    updates = ends(list(transcriber(engine, limits=LoopLimits(batch=2)).stream_all(talks[:3])))
    errors = [updates[i].transcript.error for i in range(3)]
    assert errors == ["too long", "too long", None]
    assert [len(updates[i].transcript.chunks) for i in range(3)] == [1, 1, 1]
    assert not engine.open


def test_recordings_are_opened_when_there_is_room(talks, monkeypatch):
    opened: list[str] = []
    used = transcriber(Rounds(), limits=LoopLimits(batch=2))
    of = type(used)._recording
    monkeypatch.setattr(type(used), "_recording", lambda *a: opened.append(Path(a[2]).stem) or of(*a))
    engine = used._engine
    assert isinstance(engine, Rounds)
    updates = used.stream_all(talks)
    first: Transcript = next(iter(updates)).transcript
    assert first.chunks
    assert opened == ["talk-0", "talk-1"]
    updates.close()  # type: ignore[attr-defined]
    assert not engine.open, "an abandoned transcription keeps dialogues in the engine"
