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


def share_of_one(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return number


def number_range(text: str) -> tuple[float, float]:
    """Parse ``MIN-MAX``, finite numbers of at least 0, or a single number as both."""
    first, dash, last = text.partition("-")
    try:
        low, high = float(first), float(last if dash else first)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range like 2-4") from error
    if not 0 <= low <= high < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range MIN-MAX of finite numbers with MIN <= MAX")
    return low, high


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
