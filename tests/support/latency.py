"""A proxy that delays requests, shared with the benchmarks."""

from __future__ import annotations

from benchmarks.support.latency import far

__all__ = ["far"]
