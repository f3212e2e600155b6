"""What every page has to be: whole, self-contained, with distinct ids and terms that have their definition."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "line", "rect", "path", "use", "image"}


class Page(HTMLParser):
    """Checks nesting; keeps tags with their attributes, addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open[-1:]):
            self.text += data

    def having(self, tag: str = "", **attributes: str) -> list[dict[str, str]]:
        """Return attributes of the elements of a tag, or that have a class among others."""
        return [a for t, a in self.elements if (not tag or t == tag) and attributes.items() <= _by_class(a, attributes)]


def _by_class(found: dict[str, str], wanted: dict[str, str]) -> set[tuple[str, str]]:
    pairs = set(found.items())
    if wanted.get("cls") in found.get("class", "").split():
        pairs.add(("cls", wanted["cls"]))
    return pairs


def checked_page(text: str) -> Page:
    """Parse a page; it loads nothing, its ids differ, its links and terms have their targets."""
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.links), page.links
    loads = re.findall(r"url\((?!#)[^)]*\)|@import|https?://(?!www\.w3\.org|purl\.org|creativecommons\.org)\S*", text)
    assert not loads, loads[:5]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {link[1:] for link in page.links if link.startswith("#")}
    targets |= {a["popovertarget"] for _, a in page.elements if "popovertarget" in a}
    assert targets <= set(ids), targets - set(ids)
    assert page.having("meta", name="viewport")
    assert "prefers-color-scheme: dark" in text
    for attributes in page.having(cls="scroll"):  # reached by keyboard, and named
        assert attributes["tabindex"] == "0"
        assert attributes["aria-label"]
    return page
