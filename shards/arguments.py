"""Validated argparse types."""

from __future__ import annotations

import argparse
import math


def natural(text: str) -> int:
    """Parse an integer of at least 0."""
    return _at_least(text, 0)


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    return _at_least(text, 1)


def non_negative(text: str) -> float:
    """Parse a finite number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number >= 0")
    return number


def _at_least(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= {least}")
    return int(text)
