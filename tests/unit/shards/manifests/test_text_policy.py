"""Text policies."""

import pytest

from shards.manifests.text_policy import TextPolicy, joined, plain, raw


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
    ],
)
def test_plain(before: str, after: str) -> None:
    assert plain(before) == after
    assert plain(after) == after


def test_policy_counts_its_output() -> None:
    policy = TextPolicy("raw")
    assert [policy(t) for t in ("Hello, you", "一 二", "3 it's", "  ")] == ["Hello, you", "一 二", "3 it's", ""]
    counts = {k: v for k, v in policy.result().items() if k != "means"}
    assert counts == {"policy": "raw", "texts": 3, "with_punctuation": 1, "with_lower_case": 2, "with_digits": 1}
    assert raw("\ufeff a\r\n b ") == "a b"


def test_joined() -> None:
    assert [joined("一", "二"), joined("a", "b"), joined("一", "b"), joined("", "b")] == ["一二", "a b", "一b", "b"]
