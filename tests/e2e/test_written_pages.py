"""Pages that commands write, in a real browser: they fit, ask for nothing, and terms, turns and choices work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation import curves
from pipeline.evaluation.score_decoded import publish
from shards.cli import main
from shards.dataset.reader import read_sample
from tests.support.datasets import make_dataset
from tests.support.results import decoded, make_run

PAGES = ("view", "curves", "report")


@pytest.fixture(scope="module")
def folder(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One page of each kind; not made without a browser."""
    folder = tmp_path_factory.mktemp("pages")
    dataset = make_dataset(folder / "data", samples=4, speakers_per_sample=(2, 3))
    assert main(["view", dataset.url, str(folder / "view.html")]) == 0
    runs = [str(make_run(folder / name / "stage4")) for name in ("a", "b")]
    assert curves.main([*runs, "--out", str(folder / "curves.html")]) == 0
    sound = read_sample(dataset, 0, 0).audio
    publish([decoded(folder / f"stage{n}", n) for n in (3, 4)], folder, audio=lambda _: sound)
    return folder


def opened(browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    """Open a page; return it, the faults of its script, and the addresses that it asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    return page, faults, asked


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_and_asks_for_nothing(
    folder: Path, browser: Any, tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    path = folder / f"{name}.html"
    page, faults, asked = opened(browser, path, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 27)"}[scheme]
    assert not faults
    assert all(url.startswith((path.as_uri(), "data:")) for url in asked), asked[:3]
    page.screenshot(path=str(tmp_path / f"{name}-{width}-{scheme}.png"), full_page=True)
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_term_shows_its_definition_to_mouse_and_keyboard(folder: Path, browser: Any, name: str) -> None:
    page, faults, _ = opened(browser, folder / f"{name}.html")
    term = page.locator("button.term").first
    tip = page.locator(f"#{term.get_attribute('popovertarget')}")
    assert not tip.is_visible()
    term.hover()
    tip.wait_for(state="visible", timeout=5000)
    box, shown = term.bounding_box(), tip.bounding_box()
    assert 0 <= shown["y"] - (box["y"] + box["height"]) < 20  # right below
    page.mouse.move(0, 0)
    tip.wait_for(state="hidden", timeout=5000)
    term.focus()
    page.keyboard.press("Enter")
    tip.wait_for(state="visible", timeout=5000)
    page.keyboard.press("Escape")
    tip.wait_for(state="hidden", timeout=5000)
    assert not faults
    page.close()


@pytest.mark.parametrize(("name", "clip"), [("view", "section[data-clip]"), ("report", "details[data-clip]")])
@pytest.mark.parametrize("part", [".bar", "button.turn"])
def test_a_click_on_a_turn_plays_it(folder: Path, browser: Any, name: str, clip: str, part: str) -> None:
    page, faults, _ = opened(browser, folder / f"{name}.html")
    first = page.locator(f"{clip}:has(audio)").first
    turn = first.locator(part).last
    start = float(turn.get_attribute("data-at"))
    length = page.wait_for_function("document.querySelector('[data-clip] audio').duration").json_value()
    turn.click()
    page.wait_for_function("document.querySelector('[data-clip] audio').currentTime > 0")
    at = page.evaluate("document.querySelector('[data-clip] audio').currentTime")
    assert min(start, length) - 0.1 <= at <= min(start, length) + 3
    assert not faults
    page.close()


def test_a_chosen_pair_is_shown_alone(folder: Path, browser: Any) -> None:
    page, faults, _ = opened(browser, folder / "report.html")
    pairs = page.locator("[data-pairs]").first
    choices = pairs.locator("select")
    names = choices.first.locator("option").all_inner_texts()
    assert len(names) == 6
    choices.nth(0).select_option(names[0])
    choices.nth(1).select_option(names[1])
    visible = [row for row in pairs.locator("tbody tr").all() if row.is_visible()]
    assert visible
    assert {(r.get_attribute("data-a"), r.get_attribute("data-b")) for r in visible} == {(names[0], names[1])}
    assert pairs.locator("[data-said]").inner_text() == f"A: {names[0]}. B: {names[1]}."
    choices.nth(1).select_option(names[-1])  # of another stage, which here has other references
    assert "no rate in common" in pairs.locator("[data-said]").inner_text()
    choices.nth(1).select_option(names[0])
    assert pairs.locator("[data-said]").inner_text() == "Choose two different rows."
    assert not faults
    page.close()
