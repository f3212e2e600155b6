"""A golden case for every rule of every profile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.normalize import PROFILES, profile
from shards.errors import ScoreError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<sil>你<%>好<->吗<$><#><_><space>", "你好吗"),
        ("你`好&", "你好"),
        ("ok，好丶对。啊、是？嗯！", "OK好对啊是嗯"),
        ("(~)好(SIL)的(/OVERLAP)", "好的"),
        ("Ａａｂｃｋｔ", "AABCKT"),
        ("ＡＴＭ", "AＴＭ"),  # six letters, not the rest
        ("<SIL>好<noise>", "好<NOISE>"),
        ("a 好 b", "A好B"),
        ("123 萬", "123萬"),  # no numerals, no script conversion
        ("“好”", "“好”"),  # only the recipe's marks
    ],
)
def test_m2met(text, expected):
    assert "".join(profile("m2met").tokens(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ＡＢｃ１", "abc一"),  # width and case
        ("這個軟體", "这个软体"),  # script
        ("“好”，《的》——！😀", "好的"),  # punctuation and symbols
        ("123", "一百二十三"),
        ("15个", "十五个"),
        ("1010", "一千零一十"),
        ("3.14", "三点一四"),
        ("50%", "百分之五十"),
        ("2024年5月", "二零二四年五月"),
        ("1,234,567元", "一百二十三万四千五百六十七元"),
        ("007", "零零七"),
        ("13800138000123456789", "一三八零零一三八零零零一二三四五六七八九"),
        ("1, 2, 3", "一二三"),
        ("OK 好", "ok好"),
        ("嗯 好", "嗯好"),
        ("1.50", "一点五零"),
        ("0.12345678901234567890", "零点一二三四五六七八九零一二三四五六七八九零"),
        ("1.2.3", "一点二三"),
        ("❤️1️⃣葛\U000e0100", "一葛"),  # variation selectors and the keycap are no characters
        ("e\u0301", "é"),
        ("½", "一二"),
    ],
)
def test_paper_zh(text, expected):
    assert "".join(profile("paper-zh").tokens(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("don’t 'quote'", ["don't", "quote"]),
        ("wi-fi", ["wi", "fi"]),
        ("21", ["twenty", "one"]),
        ("105 people", ["one", "hundred", "five", "people"]),
        ("the 3rd", ["the", "third"]),
        ("3.5%", ["three", "point", "five", "percent"]),
        ("1,000", ["one", "thousand"]),
        ("007", ["zero", "zero", "seven"]),
        ("1.50", ["one", "point", "five", "zero"]),
        ("1.2.3", ["one", "point", "two", "three"]),
        (
            "1,234,567",
            ["one", "million", "two", "hundred", "thirty", "four", "thousand", "five", "hundred", "sixty", "seven"],
        ),
        (
            "1234567890123",
            ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero", "one", "two", "three"],
        ),
        ("❤️ OK", ["ok"]),
        ("Ｆｕｌｌ", ["full"]),
    ],
)
def test_en(text, expected):
    assert profile("en").tokens(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我们用iPhone拍照", ["我", "们", "用", "iphone", "拍", "照"]),
        ("Hello 世界, it's ok", ["hello", "世", "界", "it's", "ok"]),
        ("版本2.0", ["版", "本", "2", "0"]),
        ("カナ 한글", ["カ", "ナ", "한", "글"]),
        ("𠮷野", ["𠮷", "野"]),
    ],
)
def test_mixed(text, expected):
    assert profile("mixed").tokens(text) == expected


def test_fillers_are_dropped_only_when_asked_for():
    assert profile("paper-zh+nofiller").tokens("呃，我啊 um 想想") == list("我想想")
    assert profile("en+nofiller").tokens("Um, I uh mean umbrella") == ["i", "mean", "umbrella"]
    assert profile("paper-zh+nofiller").id == "paper-zh+nofiller-v1"


@pytest.mark.parametrize("name", ["paper", "paper-zh+x", ""])
def test_an_unknown_profile_names_the_known_ones(name):
    with pytest.raises(ScoreError, match="m2met, paper-zh, en, mixed"):
        profile(name)


@pytest.mark.parametrize("name", [*PROFILES, "paper-zh+nofiller"])
@given(text=st.text(max_size=40))
def test_any_text_can_be_normalised(name, text):
    tokens = profile(name).tokens(text)
    assert all(t and not t.isspace() for t in tokens)


@pytest.mark.parametrize("name", ["m2met", "paper-zh", "mixed"])
@given(text=st.text(alphabet="你好萬A a1,.%年嗯<>", max_size=20))
def test_normalising_twice_changes_nothing(name, text):
    if name == "m2met":  # one pass, as the recipe's script: what is left may look like a tag ("<,>", "<<a>b>")
        text = text.replace("<", "")
    once = "".join(profile(name).normalize(text))
    assert profile(name).tokens(once) == profile(name).tokens(text)
