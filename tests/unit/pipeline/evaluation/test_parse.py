"""Turns from model output: the forms that models produce, and whatever else."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.parse import is_generic, parse
from pipeline.prompts import NOT_ON_ONE_LINE


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
        pytest.param("**Mike**: x\n**Lucy**: y", ["Mike", "Lucy"], [("Mike", "x"), ("Lucy", "y")], id="emphasis"),
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


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        pytest.param("- Mike: a\n- Lucy: b", ["Mike", "Lucy"], [("Mike", "a"), ("Lucy", "b")], id="dash"),
        pytest.param("• spk0: a\n•spk1: b", [], [("spk0", "a"), ("spk1", "b")], id="bullet"),
        pytest.param("1) Lucy: a\n2) Mike: b", ["Mike", "Lucy"], [("Lucy", "a"), ("Mike", "b")], id="number"),
        pytest.param("1. Lucy: a\n(2) Mike: b", ["Mike", "Lucy"], [("Lucy", "a"), ("Mike", "b")], id="other numbers"),
        pytest.param(
            "1、李四：好\n2、张三：是", ["李四", "张三"], [("李四", "好"), ("张三", "是")], id="Chinese numbers"
        ),
        pytest.param("* Mike: a\n  * spk1: b", ["Mike"], [("Mike", "a"), ("spk1", "b")], id="asterisk"),
        pytest.param("## Anna: a\n> Bob: b", [], [("Anna", "a"), ("Bob", "b")], id="heading and quotation"),
        pytest.param("- Bob: a\n- LUCY：b", ["Lucy"], [("Bob", "a"), ("Lucy", "b")], id="unknown name, other case"),
        pytest.param("- Mike hi\n1) Lucy", ["Mike", "Lucy"], [("Mike", "hi"), ("Lucy", "")], id="missing colon"),
        pytest.param("- **Anna**: a\n1. **Bob:** b", [], [("Anna", "a"), ("Bob", "b")], id="marker and emphasis"),
        pytest.param(" #tag: a\n#1: b", ["#tag", "#1"], [("#tag", "a"), ("#1", "b")], id="a name like a marker"),
        pytest.param("① Anna: a\n１．Bob: b", [], [("Anna", "a"), ("Bob", "b")], id="circled and wide numbers"),
        pytest.param("a) Anna: a\n[2] Bob: b", [], [("Anna", "a"), ("Bob", "b")], id="letter, number in brackets"),
        pytest.param("◆ Anna: a\n→ Mike: b", ["Mike"], [("Anna", "a"), ("Mike", "b")], id="diamond and arrow"),
        pytest.param("spk0: at\n1) 10:30 ok", [], [("spk0", "at\n1) 10:30 ok")], id="a time of day is no name"),
    ],
)
def test_a_list_marker_is_part_of_the_label(text, names, expected):
    assert turns(text, names) == expected


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("**Speaker 1**: a\n**Speaker 2**: b", [], [("Speaker 1", "a"), ("Speaker 2", "b")]),
        ("**Speaker 1:** a\n*Speaker 2*: b", [], [("Speaker 1", "a"), ("Speaker 2", "b")]),
        ("**Mike:** a **Lucy**: b", ["Mike", "Lucy"], [("Mike", "a"), ("Lucy", "b")]),
        ("**Mike** a\n**Lucy** b", ["Mike", "Lucy"], [("Mike", "a"), ("Lucy", "b")]),
        ("**Anna:** hi. **Bob:** yo", [], [("Anna", "hi."), ("Bob", "yo")]),
        ("**李四**：好。**张三**：是", [], [("李四", "好。"), ("张三", "是")]),
        ("**Mike**: **well**, a", ["Mike"], [("Mike", "**well**, a")]),
        ("***Speaker 1***: a\n***Speaker 2:*** b", [], [("Speaker 1", "a"), ("Speaker 2", "b")]),
        ("**Dr. Smith**: a\n**Mr. Lee:** b", [], [("Dr. Smith", "a"), ("Mr. Lee", "b")]),
    ],
)
def test_asterisks_around_a_label_belong_to_it(text, names, expected):
    assert turns(text, names) == expected


@pytest.mark.parametrize(
    "label", ["__Mike__", "_Mike_", "`Mike`", "[Mike]", "<Mike>", "【Mike】", "(MIKE)", "**[Mike]**"]
)
def test_a_registered_name_in_other_marks_is_that_name(label):
    assert turns(f"{label}: a\nLucy: b", ["Mike", "Lucy"]) == [("Mike", "a"), ("Lucy", "b")]
    assert turns(f"{label.replace('Mike', 'spk3').replace('MIKE', 'SPK3')}: a", ["Lucy"]) == [("spk3", "a")]


@pytest.mark.parametrize("name", ["Dr. Smith", "J. R. Smith", "Prof. Li", "Mike B.", "M.Lee"])
def test_points_of_titles_and_initials_belong_to_a_name(name):
    assert turns(f"{name}: hi\n[{name}]: ok", []) == [(name, "hi"), (name, "ok")]
    assert turns("Well. So: yes", []) == [(None, "Well."), ("So", "yes")]


@pytest.mark.parametrize("text", ["**Speaker 1** [0.5, 1.0]: a", "**Speaker 1 [0.5, 1.0]:** a", "- spk1 [0.5, 1.0]: a"])
def test_times_are_read_in_an_emphasised_or_marked_label(text):
    (turn,) = parse(text).turns
    assert (turn.start, turn.end, turn.text) == (0.5, 1.0, "a")


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("Mike: hello\nthere Lucy: good", ["Mike", "Lucy"], [("Mike", "hello\nthere"), ("Lucy", "good")]),
        ("Mike: hello\nthere spk1: good", ["Mike"], [("Mike", "hello\nthere"), ("spk1", "good")]),
        ("there Lucy [0, 1]: good", ["Lucy"], [(None, "there"), ("Lucy", "good")]),
        ("张三: 好\n然后李四：是", ["张三", "李四"], [("张三", "好\n然后"), ("李四", "是")]),
        ("Hi. Then Lucy: good", ["Lucy"], [(None, "Hi. Then"), ("Lucy", "good")]),
        ("好。然后李四：是", ["李四"], [(None, "好。然后"), ("李四", "是")]),
        ("there Lucyanne: good", ["Lucy"], [("there Lucyanne", "good")]),
    ],
)
def test_words_before_a_registered_name_are_text(text, names, expected):
    assert turns(text, names) == expected


WORDS = st.lists(st.sampled_from(["hello", "there", "Lucyanne", "好", "1", "well,"]), min_size=1, max_size=4)
MARKERS = st.sampled_from(["", "- ", "• ", "1) ", "12. ", "* ", "> ", "  "])
LABELS = st.sampled_from(["{}: ", "{}： ", "**{}**: ", "**{}:** ", "{} [0.0, 1.5]: ", "**{}** [0, 1]: "])


@given(
    st.lists(st.tuples(st.booleans(), MARKERS, LABELS, st.sampled_from(["Mike", "Lucy", "spk1"]), WORDS), min_size=1)
)
def test_every_registered_name_with_a_colon_opens_a_turn_and_no_word_is_lost(said):
    """The same turns at the start of a line, with a list marker or not, and in the middle of one."""
    text, expected = "", []
    for new_line, marker, label, name, words in said:
        text += ("\n" + marker if new_line else " ") + label.format(name) + " ".join(words)
        expected.append((name, words))
    assert [(t.speaker, t.text.split()) for t in parse(text, ["Mike", "Lucy"]).turns if t.raw.strip()] == expected


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


# What may be before a label at the start of a line.
MARKER = r"(?:[->‒–—―•·●◦▪‣■□◆◇▶►→✓✔+#*]+|[(（\[]?(?:\d{1,3}|[A-Za-z])[)）\].．、]|[①-⒇])"
WRAPPING = "_`'()（）【】「」"
alphabet = st.sampled_from(
    [
        "- ",
        "• ",
        "1) ",
        *"ab:：\n \t[]0.,1你好。?S",
        "spk1",
        "spk",
        "Mike",
        "李四",
        "[0.0, 1.0]",
        "Mike:",
        "Ｍike",
        "**",
        "_",
        "`",
        "Dr. ",
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
    if any(set(n) & set(":：[]") or n.strip().strip("*") != n.strip() for n in names):
        return  # a colon or markup inside the name is ambiguous
    for t in parsed.turns:
        raw = t.raw.strip()
        assert raw.endswith(t.text)
        head = raw[: len(raw) - len(t.text)]
        if t.speaker is None:
            assert head == ""
        else:
            assert re.fullmatch(r"(?s)\s*.+?\s*(\[[\d.,\s]*\])?\*{0,3}\s*[:：]?\*{0,3}\s*", head)
            label = re.sub(r"\*{0,3}\s*(\[[\d., \t]*\])?\*{0,3}\s*[:：]?\*{0,3}\s*$", "", head).strip()
            unmarked = re.sub(rf"^(?:{MARKER}\s*){{0,2}}\*{{0,3}}", "", label)
            bare = [plain(x) for x in (label, unmarked, unmarked.strip("[]<>"), unmarked.strip("[]<>" + WRAPPING))]
            assert plain(t.speaker) in bare or is_generic(t.speaker) or label == ""


def test_control_characters_are_no_name():
    assert [(t.speaker, t.text) for t in parse("Mike: x\n\x00: y").turns] == [("Mike", "x\n\x00: y")]


def plain(name):
    """A name in one width and case, with single spaces; an unknown name has no control characters."""
    return " ".join(unicodedata.normalize("NFKC", NOT_ON_ONE_LINE.sub(" ", name)).casefold().split())


@settings(max_examples=20, deadline=None)
@given(st.text(alphabet="ab :：[1,.\n", min_size=1, max_size=6), st.integers(5_000, 20_000))
def test_long_repetitive_output_is_read_in_reasonable_time(unit, length):
    text = unit * (length // len(unit))
    assert "".join(t.raw for t in parse(text, [f"name{i}" for i in range(50)]).turns) == text
