"""Distributions outside the tree that declare an entry point, as an installed plug-in package does."""

from __future__ import annotations

from pathlib import Path

import pytest


def add_distribution(
    monkeypatch: pytest.MonkeyPatch, folder: Path, group: str, name: str, value: str, source: str
) -> None:
    """Write a distribution with one module and put it on ``sys.path``.

    Args:
        folder: created; holds the module and the metadata.
        group: such as ``"speakerlm.corpora"``.
        name: of the entry point.
        value: ``MODULE`` or ``MODULE:OBJECT``.
        source: of the module.
    """
    module = value.partition(":")[0]
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    (folder / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
