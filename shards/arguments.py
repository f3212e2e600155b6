"""Types of numbers on command lines: what a number must not be is told before anything is done."""

from __future__ import annotations

import argparse
import math


def natural(text: str) -> int:
    """A whole number from 0 on, as a seed is."""
    return _at_least(text, 0)


def positive(text: str) -> int:
    """A whole number from 1 on, as a count is of what must be there."""
    return _at_least(text, 1)


def not_below_zero(text: str) -> float:
    """A number of seconds or hours."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return number


def _at_least(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} on")
    return int(text)
