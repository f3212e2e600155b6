"""The normaliser that a reference gets, the warning about one that does not fit, and the names of figures."""

from __future__ import annotations

import pytest

from pipeline.evaluation.figure_names import figure_of, named
from pipeline.evaluation.script import choose_profile, script_of

ENGLISH = "the customer wants it in blue"
CHINESE = "顾客想要蓝色的那一个"


@pytest.mark.parametrize(
    ("texts", "language", "expected"),
    [
        ([CHINESE], None, "paper-zh"),
        ([CHINESE * 9, "OK"], None, "paper-zh"),
        ([ENGLISH], None, "en"),
        ([ENGLISH, CHINESE], None, "mixed"),
        (["очень хорошо"], None, "mixed"),
        (["とても良いです"], None, "mixed"),
        (["그 사람은"], None, "mixed"),
        ([], None, "paper-zh"),
        (["2024", ""], None, "paper-zh"),
        (["le client le veut en bleu"], "fr", "mixed"),
        (["le client le veut en bleu"], None, "en"),
        ([ENGLISH], "en-GB", "en"),
        ([CHINESE], "zh-CN", "paper-zh"),
        ([CHINESE], "yue", "paper-zh"),
        ([ENGLISH], "eng", "en"),
        ([CHINESE], "zho", "paper-zh"),
        ([ENGLISH], "enm", "mixed"),
    ],
)
def test_auto_follows_the_language_else_the_script(texts, language, expected):
    assert choose_profile("auto", texts, language)[0].name == expected
    assert choose_profile("auto+nofiller", texts, language)[0].name == f"{expected}+nofiller"


@pytest.mark.parametrize(
    ("name", "text", "language", "message"),
    [
        ("paper-zh", ENGLISH, None, "100 % of the reference are words of other scripts; use --normaliser en"),
        ("m2met", ENGLISH, None, "use --normaliser en"),
        ("auto", ENGLISH, "zh", "normaliser paper-zh counts characters"),
        ("en", CHINESE, None, "counts words between spaces, but 100 % of the reference are characters"),
        ("en", ENGLISH + CHINESE, None, "use --normaliser mixed"),
        ("auto", CHINESE, "en", "use --normaliser paper-zh"),
        ("auto", "สวัสดีครับ วันนี้", "th", "does not have; use --normaliser none"),
        ("en", "ສະບາຍດີ", None, "Lao"),
    ],
)  # fmt: skip
def test_a_normaliser_that_does_not_fit_is_warned_of(name, text, language, message):
    warning = choose_profile(name, [text], language)[1]
    assert warning is not None
    assert message in warning


@pytest.mark.parametrize("name", ["auto", "mixed", "none"])
@pytest.mark.parametrize("text", [CHINESE, ENGLISH, CHINESE + ENGLISH, "", "42"])
def test_a_normaliser_that_fits_is_not_warned_of(name: str, text: str):
    assert choose_profile(name, [text])[1] is None


def test_characters_and_words_are_counted_by_script():
    found = script_of(["它是 blue, 50 % かな", "синий"])
    assert (found.han, found.cjk, found.latin, found.other, found.units) == (2, 2, 1, 1, 6)


@pytest.mark.parametrize(
    ("normalisers", "names"),
    [
        (["paper-zh-v2"], "CER cpCER saCER ORC-CER"),
        (["m2met-v1", "none"], "CER cpCER saCER ORC-CER"),
        (["en-v2"], "WER cpWER saWER ORC-WER"),
        (["mixed+nofiller-v3"], "MER cpMER saMER ORC-MER"),
        (["en-v2", "paper-zh-v2"], "ER cpER saER ORC-ER"),
        (["x-v1"], "CER cpCER saCER ORC-CER"),
        ([], "CER cpCER saCER ORC-CER"),
    ],
)
def test_figures_are_named_after_what_is_counted(normalisers, names):
    assert named("CER cpCER saCER ORC-CER", normalisers) == names
    assert [figure_of(n) for n in names.split()[:3]] == ["cer", "cpcer", "sacer"]
    assert figure_of("system") is None
