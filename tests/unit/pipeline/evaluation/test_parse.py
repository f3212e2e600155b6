"""Turns from model output: the forms that models produce, and whatever else."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.parse import is_generic, parse


def turns(text, names=()):
    return [(t.speaker, t.text) for t in parse(text, names).turns]


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        pytest.param("spk0: hi\nspk1: yes", [], [("spk0", "hi"), ("spk1", "yes")], id="one turn per line"),
        pytest.param(
            "Mike: hi, how are you? Lucy: hi, I'm fine.",
            ["Mike", "Lucy"],
            [("Mike", "hi, how are you?"), ("Lucy", "hi, I'm fine.")],
            id="the paper's single line",
        ),
        pytest.param(
            "spk0: I see. Question: what is it?", [], [("spk0", "I see. Question: what is it?")], id="a colon in text"
        ),
        pytest.param("Mike: 好的。时间：十点", ["Mike"], [("Mike", "好的。时间：十点")], id="the same in Chinese"),
        pytest.param(
            "Mike: hi? Lucy: fine.", [], [("Mike", "hi?"), ("Lucy", "fine.")], id="single line, names not known"
        ),
        pytest.param(
            "张三：你好\n李四：好", ["张三", "李四"], [("张三", "你好"), ("李四", "好")], id="full-width colon"
        ),
        pytest.param("张三: 你好李四: 好", ["张三", "李四"], [("张三", "你好"), ("李四", "好")], id="newline missing"),
        pytest.param("甲乙：你好。丙丁：好", [], [("甲乙", "你好。"), ("丙丁", "好")], id="Chinese names not known"),
        pytest.param("张三 你好\nspk1 yes", ["张三"], [("张三", "你好"), ("spk1", "yes")], id="missing colon"),
        pytest.param("Anna: x\nBob: y", ["Anna"], [("Anna", "x"), ("Bob", "y")], id="unknown name"),
        pytest.param("Mike: we meet at 10:30, ok", ["Mike"], [("Mike", "we meet at 10:30, ok")], id="colon in text"),
        pytest.param("Mike: one thing: go", ["Mike"], [("Mike", "one thing: go")], id="colon after a word"),
        pytest.param("Mike: see http://a.b", ["Mike"], [("Mike", "see http://a.b")], id="address"),
        pytest.param("Mike: a\nand b", ["Mike"], [("Mike", "a\nand b")], id="line without name continues the turn"),
        pytest.param("Joann: x", ["Ann"], [("Joann", "x")], id="name inside another"),
        pytest.param("MIKE: x", ["Mike"], [("Mike", "x")], id="other case"),
        pytest.param("Ｍike：x\nｓｐｋ１: y", ["Mike"], [("Mike", "x"), ("spk1", "y")], id="full-width label"),
        pytest.param("张三\u3000：x\nMike\u00a0: y", ["张三", "Mike"], [("张三", "x"), ("Mike", "y")], id="wide space"),
        pytest.param(
            "**Mike**: x\n**Lucy**: y",
            ["Mike", "Lucy"],
            [(None, "**"), ("Mike", "x\n**"), ("Lucy", "y")],
            id="emphasis",
        ),
        pytest.param("<t>a</t>spk0: x", [], [(None, "<t>a</t>"), ("spk0", "x")], id="label behind a tag"),
        pytest.param("Mark: on the mark: go", ["Mark"], [("Mark", "on the mark: go")], id="name as a common word"),
        pytest.param("Dr: Who: x\nspk1: y", ["Dr: Who"], [("Dr: Who", "x"), ("spk1", "y")], id="colon in a name"),
        pytest.param("مايك: مرحبا\nليلى：أهلا", ["مايك", "ليلى"], [("مايك", "مرحبا"), ("ليلى", "أهلا")], id="RTL"),
        pytest.param("😀: hi 😀: yo", ["😀"], [("😀", "hi"), ("😀", "yo")], id="emoji for a name"),
        pytest.param("spk0: a\r\nspk1: b\r\n", [], [("spk0", "a"), ("spk1", "b")], id="CRLF"),
        pytest.param("spk0:spk1:x", [], [("spk0", ""), ("spk1", "x")], id="labels only"),
        pytest.param("Spk 03: x", [], [("spk3", "x")], id="generic label in another form"),
        pytest.param("hello\nMike: x", ["Mike"], [(None, "hello"), ("Mike", "x")], id="text before the first name"),
        pytest.param("Mike: x\nLucy", ["Mike", "Lucy"], [("Mike", "x"), ("Lucy", "")], id="cut off after a name"),
        pytest.param("Mike: x\nLu", ["Mike", "Lucy"], [("Mike", "x\nLu")], id="cut off inside a name"),
        pytest.param("", ["Mike"], [], id="empty"),
        pytest.param(":: :\n:", [], [(None, ":: :\n:")], id="colons only"),
    ],
)
def test_turns_that_models_write(text, names, expected):
    assert turns(text, names) == expected


def test_longest_registered_name_wins():
    assert turns("张三丰: x", ["张三", "张三丰"]) == [("张三丰", "x")]
    assert turns("张三丰 x", ["张三", "张三丰"]) == [("张三丰", "x")]


def test_times_behind_a_label_are_read():
    turn = parse("Male 1 [0.0, 1.08]: 哈哈。").turns[0]
    assert (turn.speaker, turn.start, turn.end, turn.text) == ("Male 1", 0.0, 1.08, "哈哈。")


def test_deviations_are_listed():
    parsed = parse("so\nMike hi\nBob: x\nBob: x\nLucy:", ["Mike", "Lucy"])
    assert parsed.notes == (
        "turn 1: no speaker",
        "turn 2: missing colon",
        "turn 3: unknown name",
        "turn 4: unknown name",
        "turn 4: repeated",
        "turn 5: cut off after the name",
    )
    assert [t.text for t in parsed.unattributed] == ["so"]


def test_generic_labels():
    assert is_generic("spk0")
    assert not is_generic("spk")
    assert not is_generic(None)


alphabet = st.sampled_from(
    [
        *"ab:：\n \t[]0.,1你好。?S",
        "spk1",
        "spk",
        "Mike",
        "李四",
        "[0.0, 1.0]",
        "Mike:",
        "Ｍike",
        "**",
        "\u3000",
        "\r\n",
        "\x00",
    ]
)
texts = st.lists(alphabet, max_size=40).map("".join) | st.text(max_size=60)
name_lists = st.lists(
    st.sampled_from(["Mike", "李四", "a", "[", "spk1", "(", " ", "", "\\"]) | st.text(max_size=4), max_size=5
)


@settings(max_examples=600, deadline=None)
@given(texts, name_lists)
def test_no_character_is_lost(text, names):
    """Turns join to the input; less labels, colons, times and white space, all of it is in a turn's text."""
    parsed = parse(text, names)
    assert "".join(t.raw for t in parsed.turns) == text
    if any(set(n) & set(":：[]*") for n in names):
        return  # a colon or markup inside the name is ambiguous
    for t in parsed.turns:
        raw = t.raw.strip()
        assert raw.endswith(t.text)
        head = raw[: len(raw) - len(t.text)]
        if t.speaker is None:
            assert head == ""
        else:
            assert re.fullmatch(r"(?s)\s*.+?\s*(\[[\d.,\s]*\])?\*{0,2}\s*[:：]?\s*", head)
            label = re.sub(r"\s*(\[[\d., \t]*\])?\*{0,2}\s*[:：]?\s*$", "", head).strip()
            same = (
                unicodedata.normalize("NFKC", label).casefold() == unicodedata.normalize("NFKC", t.speaker).casefold()
            )
            assert same or is_generic(t.speaker) or label == ""


@settings(max_examples=20, deadline=None)
@given(st.text(alphabet="ab :：[1,.\n", min_size=1, max_size=6), st.integers(5_000, 20_000))
def test_long_repetitive_output_is_read_in_reasonable_time(unit, length):
    text = unit * (length // len(unit))
    assert "".join(t.raw for t in parse(text, [f"name{i}" for i in range(50)]).turns) == text
