"""Text policies."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.manifests.text_policy import MARKS_LISTED, TextPolicy, joined, plain, raw


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("嗯， 我们<sil>去ＡＴＭ取钱。", "嗯我们去ATM取钱"),
        ("ａ、ｂ丶ｋ ｔ `~` <%> <-> <$> <#> <_> <space> (~)(SIL) (/OVERLAP)&", "A B K T"),
        ("听Yesterday Once More吧！", "听YESTERDAY ONCE MORE吧"),
        ("不断'拉抽屉'", "不断拉抽屉"),
        ("Here's Peter’s well-known 'book'", "HERE'S PETER'S WELL KNOWN BOOK"),
        ("增长3.5%，到1,000元.", "增长3.5%到1,000元"),
        ("HELLO <COMMA> YOU <PERIOD>", "HELLO YOU"),
        ("<NOISE>", ""),
        ("¿Qué? ça va", "QUÉ ÇA VA"),
        ("हिन्दी में, नमस्ते।", "हिन्दी में नमस्ते"),
        ("ภาษาไทยที่ดี!", "ภาษาไทยที่ดี"),
        ("தமிழ் மொழி.", "தமிழ் மொழி"),
        ("اَلسَّلَامُ عَلَيْكُمْ؟", "اَلسَّلَامُ عَلَيْكُمْ"),
        ("שָׁלוֹם!", "שָׁלוֹם"),
        ("می\u200cخواهم", "میخواهم"),
        ("क्\u200dष \u200eab\u2060c", "क्ष ABC"),
        ("Donau\u00addampf, un\u00ad glaublich", "DONAUDAMPF UN GLAUBLICH"),
        ("e\u0301te\u0301", "ÉTÉ"),
        ("м'яч п’ять", "М'ЯЧ П'ЯТЬ"),
        ("d´accord l`ami ‘quote’ d'ẹ", "D'ACCORD L'AMI QUOTE D'Ẹ"),
        ("the 1990's", "THE 1990'S"),
        ("hi 👍\ufe0f you \u0301x 1\ufe0f\u20e3", "HI YOU X 1\u20e3"),
        ("ქართული ენა", "ქართული ენა"),
        ("٣٫٥ و٥٠٪", "٣٫٥ و٥٠٪"),
        ("a\ue000b", "AB"),
        ("[LAUGHTER]对啊[*]", "对啊"),
        ("so [inaudible 0:00:58] we {breath} go (laughs)", "SO WE GO"),
        ("［笑］【笑声】你好[你好]", "你好你好"),
        ("[laughter-yeah] (um) right", "YEAH UM RIGHT"),
    ],
)
def test_plain(before: str, after: str) -> None:
    assert plain(before) == after
    assert plain(after) == after


letters = st.sampled_from(
    [*"aß'’.,%５＜sil＞<[*]{}()-好 ", *"हिन्दीΐქ٣٫٪", "\u200c", "\u00ad", "\ufe0f", "\u0301", "\ue001", "👍"]
)


@given(st.text(letters | st.characters(exclude_categories=["Cs"])))
def test_plain_text_is_a_fixed_point_and_loses_no_letter(text: str) -> None:
    after = plain(text)
    assert plain(after) == after
    assert not any(unicodedata.category(sign) in ("Cf", "Zs", "So") and sign != " " for sign in after)
    if not set("<[{(【＜［｛（") & set(text):

        def words(of: str) -> str:
            of = unicodedata.normalize("NFC", of.translate({code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}))
            upper = unicodedata.normalize("NFC", of.upper())
            return "".join(c for c in upper.upper() if c.isalnum() and c != "丶")

        assert words(after) == words(text)


def test_removed_marks_are_counted_by_form() -> None:
    policy = TextPolicy("plain")
    texts = ("[LAUGHTER]对啊[*]", "[inaudible 0:00:58] a", "[Inaudible 0:01:12] b", "[hello there] c", "हिन्दी it's 3.5")
    assert [policy(t) for t in texts] == ["对啊", "A", "B", "C", "हिन्दी IT'S 3.5"]
    result = policy.result()
    marks = {"[*]": 1, "[HELLO THERE]": 1, "[INAUDIBLE 0:00:00]": 2, "[LAUGHTER]": 1}
    assert result["marks_removed"] == marks
    assert result["with_punctuation"] == result["with_lower_case"] == 0
    for number in range(2 * MARKS_LISTED):
        policy(f"[{chr(0x1000 + number)}]")
    result = policy.result()
    assert isinstance(result["marks_removed"], dict)
    assert sum(result["marks_removed"].values()) == 5 + 2 * MARKS_LISTED
    assert len(result["marks_removed"]) == MARKS_LISTED + 1


def test_policy_counts_its_output() -> None:
    policy = TextPolicy("raw")
    assert [policy(t) for t in ("Hello, you", "一 二", "3 it's", "  ")] == ["Hello, you", "一 二", "3 it's", ""]
    counts = {k: v for k, v in policy.result().items() if k != "means"}
    assert counts == {"policy": "raw", "texts": 3, "with_punctuation": 1, "with_lower_case": 2, "with_digits": 1}
    assert raw("\ufeff a\r\n b ") == "a b"


def test_joined() -> None:
    assert [joined("一", "二"), joined("a", "b"), joined("一", "b"), joined("", "b")] == ["一二", "a b", "一b", "b"]
