"""Figures of the server for Prometheus. Labels are routes and statuses, never what a client sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pipeline.decode.generate import Answer

SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class Metrics:
    """Counters of one server, in a registry of its own."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, active: Callable[[], int], waiting: Callable[[], int], live: Callable[[], int]) -> None:
        """Take functions that return requests in the server, chunks that wait, and live sessions."""
        self._registry = r = CollectorRegistry()
        self.requests = Counter("speakerlm_requests", "Answers by route and status", ["route", "status"], registry=r)
        self.seconds = Histogram(
            "speakerlm_request_seconds", "Wall time of answers", ["route"], buckets=SECONDS, registry=r
        )
        self.audio = Counter("speakerlm_audio_seconds", "Audio that was transcribed", registry=r)
        self.chunks = Counter("speakerlm_chunks", "Answers of the model by how they ended", ["stop"], registry=r)
        self.tokens = Counter("speakerlm_tokens", "Tokens that the model wrote", registry=r)
        self.batches = Histogram(
            "speakerlm_batch_chunks", "Chunks that were decoded together", buckets=(1, 2, 4, 8, 16, 32, 64), registry=r
        )
        self.cancelled = Counter("speakerlm_cancelled", "Requests whose client left or whose time was up", registry=r)
        for name, text, function in (
            ("speakerlm_active_requests", "Requests in the server", active),
            ("speakerlm_waiting_chunks", "Chunks that wait for the model", waiting),
            ("speakerlm_live_sessions", "Open live sessions", live),
        ):
            Gauge(name, text, registry=r).set_function(function)

    def batch(self, answers: Sequence[Answer], together: int) -> None:
        """Count answers that ended together, of so many that were written at the time."""
        self.batches.observe(together)
        self.tokens.inc(sum(a.tokens for a in answers))
        for answer in answers:
            self.chunks.labels(answer.stop).inc()

    def text(self) -> bytes:
        """Return all figures in Prometheus' format."""
        return bytes(generate_latest(self._registry))
