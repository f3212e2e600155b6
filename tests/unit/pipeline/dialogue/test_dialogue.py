"""Dialogues of Speaker-Reasoner from references: what holds for any clip."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dialogue.build import CacheEntry, Clip, DialogueRules, dialogue, overlap_share
from pipeline.dialogue.lines import SHORTEST, Line, parse_lines, quantize
from pipeline.dialogue.observations import observe, separate
from pipeline.dialogue.reply import blocks, faults, read_reply
from pipeline.prompts import AudioPiece, TargetPiece, TextPiece, Turn
from pipeline.stages import Task
from shards.errors import PlanError
from shards.sample import SAMPLE_RATE, Segment

SEGMENTS = (
    Segment("c:a", 0.0, 2.5, "你好"),
    Segment("c:b", 0.5, 0.9, "嗯"),
    Segment("c:a", 3.0, 5.237, "再见"),
    Segment("c:c", 4.9, 7.0, "hello there"),
)
GENDERS = {"c:a": "male", "c:b": "female"}
CLIP = Clip(SEGMENTS, 8 * SAMPLE_RATE, "zh", GENDERS)
RULES = DialogueRules()


def answer_of(turn: Turn, segments: Sequence[Segment]) -> str:
    """The text of a turn's target."""
    return "".join(p.text if isinstance(p, TargetPiece) else f" {segments[p.segment].text}\n" for p in turn.target)


def question_of(turn: Turn) -> str:
    stand_in = {TextPiece: lambda p: p.text, AudioPiece: lambda p: f"<{p.clip}:{p.start}+{p.length}>"}
    return "".join(stand_in.get(type(p), lambda p: f"<words {p.clip}:{p.segment}>")(p) for p in turn.pieces)


def test_a_dialogue_word_by_word() -> None:
    turns = dialogue(Task.REASON, CLIP, RULES)
    assert [question_of(t)[:40] for t in turns] == [
        "<start><0:0+None><end>分析这段音频，将其划分为合适的片段。",
        "<start><0:0+40000><end>",
        "<start><0:48000+35840><end>",
        "<start><0:78400+33600><end>",
    ]
    assert [answer_of(t, SEGMENTS) for t in turns] == [
        "<think>共3位说话人：1位男性，1位女性，1位性别未知。共4句话，约11%的语音有重叠。</think><box>[0.0, 2.5]</box>",
        "<think>\nMale 1 [0.0, 2.5]: 你好\nFemale 2 [0.5, 0.9]: 嗯\n</think><box>[3.0, 5.24]</box>",
        "<think>\nMale 1 [3.0, 5.24]: 再见\n</think><box>[4.9, 7.0]</box>",
        "<think>\nSpeaker 3 [4.9, 7.0]: hello there\n</think><answer>\nMale 1 [0.0, 2.5]: 你好\n"
        "Female 2 [0.5, 0.9]: 嗯\nMale 1 [3.0, 5.24]: 再见\nSpeaker 3 [4.9, 7.0]: hello there\n</answer>",
    ]


def test_observations_can_be_numbered_as_the_larger_weights_expect() -> None:
    turns = dialogue(Task.REASON, CLIP, DialogueRules(numbered=True))
    assert question_of(turns[2]).endswith("<end>当前片段作为$O_2$。")


def test_times_of_one_decimal_are_rounded_to_the_nearest() -> None:
    (turn,) = dialogue(Task.SINGLE, CLIP, DialogueRules(decimals=1))
    assert "Male 1 [3.0, 5.2]: 再见" in answer_of(turn, SEGMENTS)
    assert quantize(0.96, 1.04, 200, decimals=1) == (100, 110)  # not shorter than a line can be
    assert quantize(5.25, 5.27, 528, decimals=1) == (510, 520)  # 5.3 s would be past the end


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Task.COUNT, "3"),
        (Task.GENDERS, "Male 1\nFemale 2\nSpeaker 3\n"),
        (
            Task.SINGLE,
            "<answer>\nMale 1 [0.0, 2.5]: 你好\nFemale 2 [0.5, 0.9]: 嗯\nMale 1 [3.0, 5.24]: 再见\n"
            "Speaker 3 [4.9, 7.0]: hello there\n</answer>",
        ),
    ],
)
def test_tasks_of_one_turn(task: Task, expected: str) -> None:
    (turn,) = dialogue(task, CLIP, RULES)
    assert answer_of(turn, SEGMENTS) == expected


def test_cached_speakers_are_numbered_first() -> None:
    cache = (CacheEntry("c:c", 1600, 16000, 5, 1), CacheEntry("c:z", 0, 8000, 2, 2))
    turns = dialogue(Task.REASON, Clip(SEGMENTS, 8 * SAMPLE_RATE, "en", GENDERS, cache), RULES)
    assert question_of(turns[0]).startswith(
        "Known speakers:\nSpeaker 1<start><1:1600+16000><end>:<words 1:5>"
        "Speaker 2<start><2:0+8000><end>:<words 2:2><start><0:0+None><end>Analyse"
    )
    assert "Male 3 [0.0, 2.5]" in answer_of(turns[1], SEGMENTS)
    assert "3 speakers" in answer_of(turns[0], SEGMENTS)  # of this clip: the fourth is only known


def test_a_clip_without_speech() -> None:
    (turn,) = dialogue(Task.REASON, Clip((), SAMPLE_RATE, "en", {}), RULES)
    assert answer_of(turn, ()) == "<think>No speech.</think><answer>\n</answer>"
    with pytest.raises(PlanError, match="shorter than"):
        dialogue(Task.REASON, Clip((), 1599, "en", {}), RULES)


@st.composite
def clips(draw: st.DrawFn) -> Clip:
    length = draw(st.integers(SAMPLE_RATE, 50 * SAMPLE_RATE))
    seconds = length / SAMPLE_RATE
    segments = []
    for speaker, a, b in draw(
        st.lists(st.tuples(st.integers(0, 29), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)
    ):
        start = min(a, b) * seconds
        segments.append(Segment(f"c:{speaker}", start, max(max(a, b) * seconds, start + 1e-3), f"word{len(segments)}"))
    segments.sort(key=lambda s: s.start)
    genders = draw(st.dictionaries(st.sampled_from([f"c:{i}" for i in range(30)]), st.sampled_from(["male", "female"])))
    return Clip(tuple(segments), length, draw(st.sampled_from(["zh", "en", "und"])), genders)


@settings(deadline=None)
@given(clips(), st.sampled_from([0.5, 0.8, 1.0]), st.sampled_from([1, 5, 100]), st.sampled_from([1, 2]))
def test_properties_of_any_dialogue(clip: Clip, tau: float, most: int, decimals: int) -> None:
    segments = list(clip.segments)
    turns = dialogue(Task.REASON, clip, DialogueRules(tau=tau, max_turns=most, decimals=decimals))
    assert len(turns) <= most + 1
    texts = [answer_of(turn, segments) for turn in turns]  # type: ignore[arg-type]
    replies = [read_reply(text) for text in texts]
    previous, boxes = 0, []
    for i, (text, reply) in enumerate(zip(texts, replies, strict=True)):
        assert not faults(reply, text, clip.duration, previous, first=i == 0), text
        assert not reply.repairs
        assert reply.finished == (i == len(turns) - 1)
        if reply.box:
            boxes.append(reply.box)
            previous = reply.box[0]
    assert all(b - a >= SHORTEST for a, b in boxes)
    # The answer holds every word once, in lines that read back with the times they were given.
    answer = replies[-1].lines
    assert sorted(line.text for line in answer) == sorted(s.text for s in segments)
    assert [line.start for line in answer] == sorted(line.start for line in answer)
    for line in answer:
        segment = next(s for s in segments if s.text == line.text)
        assert (line.start, line.end) == quantize(segment.start, segment.end, clip.duration, decimals)
        assert any(a <= line.start and line.end <= b for a, b in boxes)  # boxes cover all speech
    # The thoughts hold the same lines, each inside its observation; slices are the boxes.
    thoughts = [line for reply in replies[1:] for line in parse_lines(reply.think or "")[0]]
    assert sorted(thoughts, key=str) == sorted(answer, key=str)
    slices = [piece for turn in turns[1:] for piece in turn.pieces if isinstance(piece, AudioPiece)]
    assert [(s.start, s.length) for s in slices] == [
        (a * 160, min(b * 160, clip.num_samples) - a * 160) for a, b in boxes
    ]


spans = st.tuples(st.integers(0, 4000), st.integers(10, 1000)).map(lambda t: (t[0], t[0] + t[1]))


@given(spans, spans, st.floats(0.1, 1))
def test_the_rule_is_symmetric(a: tuple[int, int], b: tuple[int, int], tau: float) -> None:
    assert separate(a, b, tau) == separate(b, a, tau)


@given(st.lists(spans, max_size=20).map(sorted), st.floats(0.1, 1))
def test_the_rule_is_idempotent(found: list[tuple[int, int]], tau: float) -> None:
    once = observe(found, tau, 100)
    assert sorted(i for o in once for i in o.segments) == list(range(len(found)))
    again = observe([(o.start, o.end) for o in once], tau, 100)
    assert [(o.start, o.end) for o in again] == [(o.start, o.end) for o in once]
    assert all(separate((a.start, a.end), (b.start, b.end), tau) for a in once for b in once if a is not b)


@given(st.integers(0, 10_000), st.integers(0, 3000), st.integers(1, 99), st.sampled_from([None, "male", "female"]))
def test_lines_survive_being_written_and_read(start: int, length: int, number: int, gender: str | None) -> None:
    line = Line(number, gender, start, start + length, "好的, [noise] yes: 12.")
    assert parse_lines(str(line)) == ([line], [])


@given(st.floats(0, 60), st.floats(0, 60), st.integers(10, 6000))
def test_spans_are_rounded_outwards_into_the_audio(start: float, length: float, duration: int) -> None:
    a, b = quantize(start, start + length, duration)
    assert 0 <= a < b <= duration
    assert b - a >= SHORTEST
    assert a <= start * 100 + 1e-3
    assert b >= min((start + length) * 100 - 1e-3, duration)


def test_overlap_share() -> None:
    assert overlap_share([(0, 100), (50, 150)]) == pytest.approx(1 / 3)
    assert overlap_share([(0, 100), (100, 150)]) == 0
    assert overlap_share([]) == 0


@given(st.text(alphabet="<>/thinkboxaswer[]0123456789.,: \nMale好【】：，ＡＢ１２", max_size=200))
def test_reading_never_raises_and_loses_no_word(text: str) -> None:
    reply = read_reply(text)
    faults(reply, text, 1000, 0, first=False)
    assert sum(text.count(c) for c in "好Ａ") == sum(
        (reply.think or "").count(c) + (reply.answer or "").count(c) for c in "好Ａ"
    ) + sum(part.count(c) for part in boxes_of(text) for c in "好Ａ")


def boxes_of(text: str) -> list[str]:
    """Contents of boxes, which hold no words of the transcript."""
    return [content for name, content, _ in blocks(text) if name == "box"]


@pytest.mark.parametrize(
    ("text", "box", "lines", "repairs"),
    [
        ("<think>a<box>[1,2]", (100, 200), (), ("<think> is not closed", "<box> is not closed")),
        ("＜think＞x</think><box>【1：02.5，70】</box>", (6250, 7000), (), ()),
        ("<think><think>x</think></think><box>1.0, 2.0</box>", (100, 200), (), ()),
        (
            "<answer>Male 1 [0.0, 1.0]: hi Ｆemale ２【1.0，2.0】：yo\nmore",
            None,
            ("hi", "yo more"),
            ("<answer> is not closed",),
        ),
        ("Male 1 [0.0s - 1.0s] hi", None, ("hi",), ("text outside of tags",)),
    ],
)
def test_malformed_replies_are_read(
    text: str, box: tuple[int, int] | None, lines: tuple[str, ...], repairs: tuple[str, ...]
) -> None:
    reply = read_reply(text)
    assert (reply.box, tuple(line.text for line in reply.lines), reply.repairs) == (box, lines, repairs)


@pytest.mark.parametrize(
    ("text", "previous", "first", "fault"),
    [
        ("<think>x</think>", 0, True, "neither"),
        ("<box>[1, 2]</box>", 0, True, "neither"),
        ("<think>" + "哈" * 11 + "</think><box>[1, 2]</box>", 0, True, "'哈' is repeated 11 times"),
        ("<think>x</think><box>[1, 8.11]</box>", 0, True, "outside of 8.0 s"),
        ("<think>x</think><box>[8.01, 8.05]</box>", 0, True, "outside of 8.0 s"),
        ("<think>x</think><box>[1, 1.05]</box>", 0, True, "shorter than 0.1 s"),
        ("<think>Male 1 [1, 1.05]: x</think><box>[1, 2]</box>", 0, False, "shorter than 0.1 s"),
        ("<think>x</think><box>[1, 2]</box>", 101, False, "before the one before it"),
        ("<think>x</think><box>[1, 2]</box>", 100, False, ""),
        ("<think>x</think><box>[1, 8.1]</box>", 0, True, ""),
        ("<think>" + "哈" * 10 + "</think><box>[1, 2]</box>", 0, True, ""),
        ("<answer></answer>", 0, False, ""),
    ],
)
def test_guards(text: str, previous: int, first: bool, fault: str) -> None:
    found = faults(read_reply(text), text, 800, previous, first)
    assert (fault in found[0]) if fault else not found
