"""The inference loop against scripted models that misbehave in every way the guards know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dialogue.wording import ENGLISH
from pipeline.prompts import AudioPiece, TextPiece
from pipeline.reasoner.loop import (
    KnownSpeaker,
    LoopLimits,
    ReasonerClip,
    Request,
    reason,
    sampling,
)
from pipeline.stages import Task
from shards.errors import ConfigError

SUMMARY = "<think>2 speakers</think><box>[0.0, 3.0]</box>"
LOOK = "<think>\nMale 1 [0.0, 2.5]: hello there\n</think><box>[4.0, 6.0]</box>"
END = (
    "<think>\nFemale 2 [4.0, 6.0]: good\n</think><answer>\nMale 1 [0.0, 2.5]: hello there\n"
    "Female 2 [4.0, 6.0]: good\n</answer>"
)
LIMITS = LoopLimits(attempts=5, turns=6, batch=2)


def clip(key: str = "a", seconds: float = 8.0, known: tuple[KnownSpeaker, ...] = ()) -> ReasonerClip:
    return ReasonerClip(key, np.zeros(int(seconds * 16000), np.float32), "en", known)


class Script:
    """An engine that answers by a function of the request, and records what it was asked."""

    def __init__(self, answer: Callable[[Request], str | None]) -> None:
        self._answer = answer
        self.calls: list[list[Request]] = []
        self.released: list[str] = []

    def answer(self, requests: Sequence[Request]) -> list[str | None]:
        self.calls.append(list(requests))
        return [self._answer(r) for r in requests]

    def release(self, key: str) -> None:
        self.released.append(key)


def good(request: Request) -> str:
    return [SUMMARY, LOOK, END][len(request.replies)]


def test_a_dialogue_to_its_answer() -> None:
    engine = Script(good)
    (outcome,) = reason([clip()], engine, limits=LIMITS)
    assert [str(line) for line in outcome.lines] == ["Male 1 [0.0, 2.5]: hello there", "Female 2 [4.0, 6.0]: good"]
    assert (outcome.reason, outcome.turns, outcome.attempts, outcome.covered) == ("answer", 3, 3, 8.0)
    assert outcome.at_once == 3
    assert outcome.complete
    assert not outcome.rejected
    slices = [[p for p in turn if isinstance(p, AudioPiece)] for turn in engine.calls[-1][0].questions]
    assert slices == [[AudioPiece()], [AudioPiece(0, 48000)], [AudioPiece(64000, 32000)]]
    assert engine.released == ["a"]


def test_dialogues_are_answered_together_each_at_its_own_turn() -> None:
    slow: dict[str, int] = {}

    def answer(request: Request) -> str:
        if request.clip.key == "b" and len(request.replies) == 1 and slow.setdefault("b", 0) < 2:
            slow["b"] += 1
            return "nothing"
        return good(request)

    engine = Script(answer)
    outcomes = reason([clip("a"), clip("b"), clip("c"), clip("short", 0.05)], engine, limits=LIMITS)
    assert [o.key for o in outcomes] == ["a", "b", "c", "short"]
    assert [o.complete for o in outcomes] == [True, True, True, False]
    assert max(len(call) for call in engine.calls) == 2
    assert any(
        {len(r.replies) for r in call} == {0, 1} or {len(r.replies) for r in call} == {0, 2} for call in engine.calls
    )
    assert outcomes[1].attempts == 5
    assert sorted(engine.released) == ["a", "b", "c"]


BAD = {
    "no tags": "hello",
    "no box": "<think>x</think>",
    "loop": "<think>" + "ha " * 20 + "</think><box>[0, 1]</box>",
    "end past the audio": "<think>x</think><box>[0, 8.2]</box>",
    "start past the audio": "<think>x</think><box>[8.1, 8.3]</box>",
    "short box": "<think>x</think><box>[1.0, 1.05]</box>",
    "a line past the audio in the answer": "<answer>Male 1 [7.0, 9.0]: x</answer>",
}


@pytest.mark.parametrize("bad", list(BAD))
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_each_guard_rejects_and_another_attempt_helps(bad: str, turn: int) -> None:
    def answer(request: Request) -> str:
        return BAD[bad] if len(request.replies) == turn and request.sampling.seed < 4 else good(request)

    engine = Script(answer)
    (outcome,) = reason([clip()], engine, limits=LIMITS)
    assert outcome.complete
    assert len(outcome.lines) == 2
    assert (outcome.attempts, outcome.at_once) == (3 + 4, 2)
    assert len(outcome.rejected) >= 4
    warm = [r.sampling for call in engine.calls for r in call if len(r.replies) == turn]
    assert warm == [sampling(i) for i in range(5)]


@pytest.mark.parametrize(
    "bad",
    [
        "<think>\nMale 1 [0.0, 0.05]: x\n</think><box>[4.0, 6.0]</box>",  # a short line
        "<think>\nMale 1 [5.0, 9.0]: x\n</think><box>[4.0, 6.0]</box>",  # a line past the audio
    ],
)
def test_lines_of_observations_are_checked_too(bad: str) -> None:
    engine = Script(lambda r: bad if len(r.replies) == 1 and r.sampling.seed == 0 else good(r))
    (outcome,) = reason([clip()], engine, limits=LIMITS)
    assert outcome.attempts == 4


def test_a_box_never_goes_back_but_may_stay() -> None:
    back = "<think>x</think><box>[2.99, 6.0]</box>"
    replies = ["<think>x</think><box>[3.0, 4.0]</box>", back, END]

    engine = Script(lambda r: replies[len(r.replies)].replace("2.99", "3.0" if r.sampling.seed else "2.99"))
    (outcome,) = reason([clip()], engine, limits=LIMITS)
    assert outcome.complete
    assert outcome.attempts == 4


def test_a_box_at_the_end_of_the_audio_gets_a_slice_that_can_be_heard() -> None:
    engine = Script(lambda r: "<think>x</think><box>[8.0, 8.1]</box>" if not r.replies else END)
    (outcome,) = reason([clip()], engine, limits=LIMITS)
    assert outcome.complete
    assert [p for p in engine.calls[-1][0].questions[1] if isinstance(p, AudioPiece)] == [AudioPiece(126_400, 1600)]


def test_a_single_pass_asks_once_and_needs_an_answer() -> None:
    engine = Script(lambda r: LOOK if r.sampling.seed < 2 else END)
    (outcome,) = reason([clip()], engine, limits=LIMITS, task=Task.SINGLE)
    assert (outcome.reason, outcome.turns, outcome.attempts, len(outcome.lines)) == ("answer", 1, 3, 2)
    assert set(outcome.rejected) == {"no <answer> in the only turn"}
    asked = engine.calls[0][0].questions[0]
    assert [p.text for p in asked if isinstance(p, TextPiece)][-1] == ENGLISH.transcribe
    (cut,) = reason([clip()], Script(lambda _: LOOK), limits=LIMITS, task=Task.SINGLE)
    assert (cut.reason, [line.text for line in cut.lines]) == ("no valid reply in 5 attempts", ["hello there"])
    with pytest.raises(ConfigError, match="task count has no transcript"):
        reason([clip()], engine, task=Task.COUNT)


def test_two_clips_of_one_key_are_refused() -> None:
    with pytest.raises(ConfigError, match="two clips have the key a"):
        reason([clip("a"), clip("b"), clip("a")], Script(good))


def test_the_schedule_of_attempts_is_the_papers() -> None:
    drawn = [sampling(k) for k in range(50)]
    assert {(s.temperature, s.top_p, s.top_k) for s in drawn[:3]} == {(0.01, 0.1, 1)}
    assert [round(s.temperature, 2) for s in drawn[3:12]] == [0.1] * 3 + [0.2] * 3 + [0.3] * 3
    assert {(s.top_p, s.top_k) for s in drawn[3:]} == {(0.9, 0)}
    assert max(s.temperature for s in drawn) == 1.0
    assert len({s.seed for s in drawn}) == 50


def test_what_was_understood_is_returned_where_no_answer_comes() -> None:
    def answer(request: Request) -> str:
        return good(request) if len(request.replies) < 2 else "<think>\nFemale 2 [4.0, 5.0]: good\nMale 1 [5, 99]: no"

    (outcome,) = reason([clip()], Script(answer), limits=LIMITS)
    assert outcome.reason == "no valid reply in 5 attempts"
    assert [line.text for line in outcome.lines] == ["hello there", "good"]
    assert outcome.covered == 6.0
    assert len(outcome.replies) == 2


def test_endless_observations_end_at_the_limit_of_turns() -> None:
    engine = Script(lambda r: LOOK if r.replies else SUMMARY)
    (outcome,) = reason([clip()], engine, limits=LIMITS)
    assert outcome.reason == "no answer in 6 turns"
    assert outcome.turns == 6
    assert {line.text for line in outcome.lines} == {"hello there"}


def test_a_full_context_ends_with_what_is_there() -> None:
    (outcome,) = reason([clip()], Script(lambda r: None if len(r.replies) == 2 else good(r)), limits=LIMITS)
    assert outcome.reason == "the model's context is full"
    assert [line.text for line in outcome.lines] == ["hello there"]


def test_a_cut_answer_is_continued_by_the_observations() -> None:
    replies = [
        SUMMARY,
        LOOK,
        "<think>\nFemale 2 [4.0, 6.0]: good\n</think><box>[6.0, 7.0]</box>",
        "<think>\nMale 1 [6.0, 7.0]: bye\n</think><answer>\nMale 1 [0.0, 2.5]: hello there\n",
    ]
    (outcome,) = reason([clip()], Script(lambda r: replies[len(r.replies)]), limits=LIMITS)
    assert [line.text for line in outcome.lines] == ["hello there", "good"]
    assert outcome.repairs == ("<answer> is not closed", "lines of observations continue a cut answer")


def test_known_speakers_come_before_the_audio() -> None:
    known = (KnownSpeaker("Male 1", np.ones(1600, np.float32), "hi"),)
    engine = Script(good)
    reason([clip(known=known)], engine, limits=LIMITS)
    opening = engine.calls[0][0].questions[0]
    assert [p for p in opening if isinstance(p, AudioPiece)] == [AudioPiece(0, 1600, 1), AudioPiece()]
    assert "".join(p.text for p in opening if isinstance(p, TextPiece)).startswith(
        "Known speakers:\nMale 1<start><end>: hi\n<start><end>Analyse"
    )


pieces = st.sampled_from(
    ["<think>", "</think>", "<box>", "</box>", "<answer>", "</answer>", "[0.0, 3.0]", "[4, 5]", "[9, 1]", "hi", "\n"]
    + ["Male 1 [0.0, 2.0]: yes", "Female 2 [1, 7.9]: no", "Speaker 3 [0, 99]: far"]
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(pieces, max_size=12).map("".join), min_size=1, max_size=12))
def test_any_model_ends_with_possible_lines(replies: list[str]) -> None:
    at = iter(range(10**6))
    engine = Script(lambda _: replies[next(at) % len(replies)])
    (outcome,) = reason([clip()], engine, limits=LIMITS)
    assert outcome.turns <= LIMITS.turns
    assert outcome.attempts <= LIMITS.turns * LIMITS.attempts
    assert all(0 <= line.start <= line.end <= 800 for line in outcome.lines)
    assert outcome.reason
    assert engine.released == ["a"]
