"""Components of all pages that commands write: palette, style, script, timeline, and the templates that show them.

A page is one file. It loads nothing from elsewhere, follows the reader's choice of a light or dark ground, and can be
read from 360 pixels of width. ``templates/`` holds ``page.html.j2`` (the frame), ``components.html.j2`` (macros),
``page.css`` and ``page.js``; a page's own template extends the frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.storage.local import atomic_file

TEMPLATES = Path(__file__).parent / "templates"

# Colours of persons and curves: on a light ground, on a dark one. Each can be read as text (contrast 4.5).
PALETTE = (
    ("#2563a8", "#7db4ee"), ("#b3501a", "#f0a070"), ("#2c7a4b", "#7ccb97"), ("#84469c", "#cf9be6"),
    ("#a3303b", "#f08d92"), ("#866400", "#dcb84a"), ("#0d7680", "#5fc4cc"), ("#ad2f74", "#ee8fbf"),
    ("#566d12", "#b4c765"), ("#5b6470", "#aab6c2"),
)  # fmt: skip
NO_COLOUR = "var(--soft)"  # of text without a person
GROUND = ("#ffffff", "#12161b")
PIXELS_A_SECOND, WIDEST = 16, 9000  # of a timeline: a longer recording has fewer pixels per second
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)  # between marks, seconds


@dataclass(frozen=True)
class Bar:
    """Time in which a person speaks, in seconds, and the words."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Lane:
    """A person's line of a timeline; lanes of one group are neighbours and have its title above them."""

    name: str
    colour: str  # CSS
    bars: tuple[Bar, ...]
    group: str = ""
    estimated: bool = False  # whether times are not those of the source


@dataclass(frozen=True)
class Timeline:
    """Lanes over one axis of time."""

    lanes: tuple[Lane, ...]
    seconds: float
    wave: str = ""  # path of a waveform in a box of 1000 × 100

    @property
    def width(self) -> int:
        """Least width in pixels; a narrower page scrolls."""
        return min(WIDEST, round(self.seconds * PIXELS_A_SECOND))

    @property
    def marks(self) -> list[tuple[float, str]]:
        """Round times of the axis, at most about one per 80 pixels: (share of the width, text)."""
        most = max(4, self.width // 80)
        step = next((s for s in STEPS if self.seconds / s <= most), STEPS[-1])
        count = int(self.seconds / step + 1e-6)
        return [(i * step / self.seconds, _clock(i * step, step)) for i in range(count + 1)] if self.seconds else []

    def place(self, bar: Bar) -> str:
        """Return the CSS of a bar's place."""
        whole = self.seconds or 1.0
        return f"left:{100 * bar.start / whole:.2f}%;width:{100 * (bar.end - bar.start) / whole:.2f}%"


def _clock(seconds: float, step: float) -> str:
    if step < 1:
        return f"{seconds:.1f} s"
    if step < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if step >= 1800 else f"{minutes} min"


def colour(index: int) -> str:
    """Return a colour of the palette as CSS; outside a page it is that for a light ground."""
    place = index % len(PALETTE)
    return f"var(--c{place}, {PALETTE[place][0]})"


def people_colours(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return person → colour: one in the whole page, another for each person of a group as far as the palette lasts.

    The first choice depends on the name alone, so most persons keep their colour from page to page.

    Args:
        groups: persons that appear together, as in one conversation.
    """
    listed = [tuple(dict.fromkeys(g)) for g in groups]
    near: dict[str, dict[str, None]] = {}
    for group in listed:
        for name in group:
            near.setdefault(name, {}).update(dict.fromkeys(group))
    chosen: dict[str, int] = {}
    for name, others in near.items():
        used = [chosen[o] for o in others if o in chosen]
        first = int.from_bytes(hashlib.sha1(name.encode()).digest()[:4], "big")
        order = [(first + i) % len(PALETTE) for i in range(len(PALETTE))]
        chosen[name] = min(order, key=lambda c: (used.count(c), list(chosen.values()).count(c)))
    return {name: colour(index) for name, index in chosen.items()}


def palette_css(selector: str = ":root") -> str:
    """Return the palette as CSS variables ``--c0`` to ``--c9`` of elements, for a light and a dark ground."""
    light, dark = (";".join(f"--c{i}:{pair[side]}" for i, pair in enumerate(PALETTE)) for side in (0, 1))
    return f"{selector}{{{light}}}\n@media (prefers-color-scheme: dark){{{selector}{{{dark}}}}}\n"


def render(
    template: Path,
    values: Mapping[str, Any],
    definitions: Mapping[str, str] | None = None,
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """Render a page.

    Args:
        template: the page's own template, which extends ``page.html.j2``.
        values: its variables.
        definitions: term → definition; the macro ``term`` shows it on hover, focus and touch.
        filters: further filters.
    """
    import jinja2

    loader = jinja2.FileSystemLoader([template.parent, TEMPLATES])
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= filters or {}
    environment.globals |= {"definitions": definitions or {}, "palette": palette_css()}
    return environment.get_template(template.name).render(**values)


def write_page(path: Path, text: str) -> None:
    """Write a page atomically; its folder is made.

    Raises:
        StorageError: it cannot be written; nothing of it is left.
    """
    with atomic_file(path, wait=True) as file:
        file.write(text.encode())
