"""Speaker extractors of a test, found by name through an entry point as those of another package are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.plugins import add_distribution

LOADED: dict[str, Any] = {}
SOURCE = """
from tests.support.extractors import LOADED


def load(source, device, cache):
    return LOADED[{name!r}]
"""


def add_extractor(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, extractor: Any) -> None:
    """Make ``--extractor NAME`` load this object, in this process. `folder` is created."""
    monkeypatch.setitem(LOADED, name, extractor)
    module = f"extractor_{name}"
    add_distribution(monkeypatch, folder, "speakerlm.extractors", name, module, SOURCE.format(name=name))
