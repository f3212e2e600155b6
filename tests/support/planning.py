"""An in-memory dataset and a tokenizer of characters, shared with the benchmarks."""

from __future__ import annotations

from benchmarks.support.planning import (
    CharTokenizer,
    FakeBank,
    FakeSource,
    make_data,
    make_plan,
    make_source,
    packed_plan,
    samples_of,
)

__all__ = [
    "CharTokenizer",
    "FakeBank",
    "FakeSource",
    "make_data",
    "make_plan",
    "make_source",
    "packed_plan",
    "samples_of",
]
