"""Components of pages: colours, timelines, terms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.dataset.pages import (
    GROUND,
    PALETTE,
    TEMPLATES,
    Bar,
    Lane,
    Timeline,
    colour,
    people_colours,
    render,
    write_page,
)
from shards.errors import StorageError
from tests.support.pages import checked_page

STYLE = (TEMPLATES / "page.css").read_text(encoding="utf-8")


def contrast(a: str, b: str) -> float:
    """Contrast of two colours as WCAG 2 defines it."""

    def luminance(text: str) -> float:
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def variables(side: int) -> dict[str, str]:
    """Colours of the style for the light ground (0) or the dark one (1)."""
    blocks = re.findall(r":root \{([^}]*)\}", STYLE)
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", blocks[side]))


@pytest.mark.parametrize("side", [0, 1])
def test_text_can_be_read_on_both_grounds(side: int) -> None:
    names = variables(side)
    assert names["--ground"] == GROUND[side]
    for pair in PALETTE:
        assert contrast(pair[side], GROUND[side]) >= 4.5, pair[side]
    for name in ("--ink", "--soft", "--accent"):
        assert contrast(names[name], names["--ground"]) >= 4.5, name
        assert contrast(names[name], names["--raised"]) >= 4.5, name
    for kind in ("ins", "del", "sub"):
        assert contrast(names[f"--{kind}-ink"], names[f"--{kind}"]) >= 4.5, kind


def test_every_variable_of_the_style_is_defined() -> None:
    given_names = set(re.findall(r"(--[\w-]+):", STYLE)) | {f"--c{i}" for i in range(len(PALETTE))} | {"--who"}
    assert set(re.findall(r"var\((--[\w-]+)", STYLE)) <= given_names
    assert variables(0).keys() == variables(1).keys()


def test_no_rule_for_one_width_stands_inside_another() -> None:
    depth, inside = 0, []
    for token in re.findall(r"@media[^{]*|[{}]", STYLE):
        if token.startswith("@media"):
            inside += [token] if depth else []
        else:
            depth += 1 if token == "{" else -1
    assert depth == 0
    assert not inside


PEOPLE = st.lists(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), max_size=6), max_size=12)


@settings(deadline=None)
@given(PEOPLE)
def test_a_person_has_one_colour_and_persons_of_a_conversation_differ(groups: list[list[str]]) -> None:
    found = people_colours(groups)
    assert found == people_colours(groups)
    assert found.keys() == {name for group in groups for name in group}
    if len(found) <= len(PALETTE):
        assert len(set(found.values())) == len(found)


def test_persons_of_one_group_differ_even_if_the_page_has_many() -> None:
    groups = [[f"p{i}", f"p{i + 1}", f"p{i + 2}"] for i in range(40)]
    found = people_colours(groups)
    assert all(len({found[name] for name in group}) == 3 for group in groups)


def test_a_person_alone_has_the_same_colour_on_every_page() -> None:
    assert people_colours([["anna"]])["anna"] == people_colours([["anna", "ben"], ["anna"]])["anna"]


def test_colours_work_outside_a_page() -> None:
    assert colour(0) == f"var(--c0, {PALETTE[0][0]})"
    assert colour(len(PALETTE)) == colour(0)


@pytest.mark.parametrize(
    ("seconds", "texts"),
    [
        (0.9, ["0.0 s", "0.5 s"]),
        (2.5, ["0 s", "1 s", "2 s"]),
        (50.0, ["0 s", "5 s", "10 s", "15 s", "20 s", "25 s", "30 s", "35 s", "40 s", "45 s", "50 s"]),
        (5400.0, ["0 min", "1 min", "2 min"]),
    ],
)
def test_times_of_the_axis_are_round(seconds: float, texts: list[str]) -> None:
    marks = Timeline((), seconds).marks
    assert [text for _, text in marks][: len(texts)] == texts
    assert all(0 <= share <= 1 for share, _ in marks)
    assert len(marks) <= 120


def test_a_long_timeline_is_wider_than_a_page_and_bounded() -> None:
    assert Timeline((), 50.0).width == 800
    assert Timeline((), 36_000.0).width == 9000


def test_a_term_opens_its_definition_and_text_is_escaped(tmp_path: Path) -> None:
    own = tmp_path / "own.html.j2"
    own.write_text(
        '{% extends "page.html.j2" %}{% import "components.html.j2" as ui %}{% block title %}{{ title }}{% endblock %}'
        '{% block content %}{{ ui.term("CER") }}{{ ui.term("<b>") }}{{ ui.timeline(t, true) }}'
        "{{ ui.turns(rows, true) }}{% endblock %}"
    )
    bad = "<script>alert(1)</script>"
    lanes = (Lane(bad, colour(1), (Bar(1.0, 2.0, bad),), "A & B"),)
    values = {"title": bad, "t": Timeline(lanes, 10.0, "M0 0Z"), "rows": [(1.0, 2.0, bad, colour(1), bad)]}
    text = render(own, values, {"CER": "Errors <per> token."})
    page = checked_page(text)
    assert bad not in text
    assert page.having("button", cls="term") == [
        {"type": "button", "class": "term", "popovertarget": "term-1", "popovertargetaction": "show"}
    ]
    assert "Errors <per> token." in page.text
    bar = page.having(cls="bar")[0]
    assert bar["style"].startswith("left:10.00%;width:10.00%")
    assert page.having("button", cls="turn")[0]["data-at"] == "1.000"


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "page.html", "x")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["page.html"]
    (tmp_path / "plain").touch()
    assert (tmp_path / "new" / "page.html").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_page_that_cannot_be_written_leaves_no_file_and_keeps_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, "x")
    with pytest.raises(UnicodeEncodeError):
        write_page(path, "\ud800")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text() == "x"
    with pytest.raises(StorageError, match=r"page\.html"):
        write_page(path / "below.html", "x")
