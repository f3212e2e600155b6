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


def number_range(text: str) -> tuple[float, float]:
    """Parse ``MIN-MAX``, or a single number as both."""
    first, dash, last = text.partition("-")
    try:
        return float(first), float(last if dash else first)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range like 2-4") from error


def integer_range(text: str) -> tuple[int, int]:
    """Parse ``MIN-MAX`` in integers, or a single integer as both."""
    first, last = number_range(text)
    if not (first.is_integer() and last.is_integer()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of integers like 2-4")
    return int(first), int(last)


def _at_least(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= {least}")
    return int(text)
