"""Making one part of stage 0; not in ``__main__``, from which processes of a pool cannot import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def make_part(proof: Path, train: Callable[..., None], *arguments: Any) -> None:
    """Train a part, and write its proof."""
    train(*arguments)
    proof.touch()
