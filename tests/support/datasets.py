"""Small synthetic datasets, shared with the benchmarks."""

from __future__ import annotations

from benchmarks.support.datasets import make_dataset, make_sample

__all__ = ["make_dataset", "make_sample"]
