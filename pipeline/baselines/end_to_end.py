"""Systems that hear and write at once, over a test set → rows as `speakerlm-decode` writes them

``OUT/no.jsonl`` (``match.jsonl`` with known speakers) has a row per clip: the system's text unchanged, its ``format``,
the hash of the prompt, tokens, attempts and seconds. A few clips are asked about at once; the same command resumes.
``OUT/cost.json`` sums tokens and cost.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.baselines.audio_endpoint import MOST_REFERENCES, REFERENCE_SECONDS, Reply, wav
from pipeline.baselines.cascade import CascadeClip, CascadeTestSet
from pipeline.baselines.systems import Prompt, System
from pipeline.decode.store import DecodeFolder, DecodeLabels, DecodeSettings, Timing
from pipeline.ranks.memory import peak_bytes
from shards.errors import ConfigError, SpeakerLMError
from shards.sample import SAMPLE_RATE
from shards.workers import progress

# What chat calls tokens in and out, and what transcriptions call them.
_TOKENS = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))


class Listener(Protocol):
    """A system that is asked about one clip at a time."""

    @property
    def model(self) -> str:
        """Return its name at an endpoint, or its folder."""
        ...

    @property
    def system(self) -> System:
        """Return how it is asked and read."""
        ...

    @property
    def references(self) -> Mapping[str, bytes]:
        """Return known speakers: name → WAV."""
        ...

    @property
    def most_tokens(self) -> int:
        """Return the limit of an answer."""
        ...

    def hear(self, wave: np.ndarray, prompt: str) -> Reply:
        """(n,) float32 at 16 kHz and a prompt → what the system wrote."""
        ...


@dataclass(frozen=True)
class Prices:
    """Prices in dollars: of a million tokens in and out, and of a minute of audio."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0
    minute: float = 0.0

    def of(self, row: dict[str, Any]) -> float:
        """Return the cost of a row."""
        used = tokens(row)
        return (used[0] * self.tokens_in + used[1] * self.tokens_out) / 1e6 + row["duration"] / 60 * self.minute


def tokens(row: dict[str, Any]) -> tuple[int, int]:
    """Return tokens in and out of a row; 0 if the endpoint states none."""
    usage = row.get("usage") or {}
    given = [usage.get(chat, usage.get(other)) for chat, other in _TOKENS]
    first, last = (n if isinstance(n, int) else 0 for n in given)
    return first, last


def run(
    name: str,
    listener: Listener,
    prompt: Prompt,
    tests: CascadeTestSet,
    out: Path,
    limit: int | None = None,
    at_once: int = 4,
    prices: Prices = Prices(),
) -> tuple[Timing, dict[str, Any]]:
    """Ask about every clip that has no row yet; return the timing and what all rows cost.

    Raises:
        ModelError: the endpoint refuses or does not answer; the rows of other clips are kept.
        ScoreError: `out` holds output of another system, prompt or test set.
    """
    prompt.of(1.0)  # a wrong prompt fails before the first request
    job = "match" if listener.references else "no"
    voices = {n: hashlib.sha256(s).hexdigest() for n, s in listener.references.items()}
    identity = json.dumps([name, listener.model, listener.most_tokens, prompt.sha256, voices])
    settings = DecodeSettings(
        name, hashlib.sha256(identity.encode()).hexdigest(), tests.url, tests.fingerprint, 0, 1, limit
    )
    output = DecodeFolder(out, settings, DecodeLabels(listener.model, None, tests.name, "", None))
    keys = tests.keys[:limit]
    done = output.rows(job).keys()
    todo = [k for k in keys if k not in done]
    with output.part(job, 0, 1) as part, progress(total=len(keys), initial=len(done), unit="clip") as bar:
        for row in _answers(listener, prompt, tests.clips(todo), at_once, job):
            part.append([row], Timing(1, row["duration"], row["seconds"], peak_bytes()))
            bar.update()
    timings = output.merge({job: keys})
    assert timings is not None, "one process asks about all clips"
    lines = (out / f"{job}.jsonl").read_text(encoding="utf-8").split("\n")
    return timings[job], _write_cost(out, [json.loads(line) for line in lines if line], prices)


def _answers(
    listener: Listener, prompt: Prompt, clips: Iterator[CascadeClip], at_once: int, job: str
) -> Iterator[dict[str, Any]]:
    """Yield rows as they are finished; on an error those already asked for are yielded first."""
    failure: SpeakerLMError | None = None
    with ThreadPoolExecutor(at_once) as pool:
        waiting: set[Future[dict[str, Any]]] = set()
        for clip in itertools.chain(clips, itertools.repeat(None)):
            if clip is not None and failure is None:
                waiting.add(pool.submit(_row, listener, prompt, clip.row, clip.wave(), job))
                if len(waiting) < at_once:
                    continue
            if not waiting:
                break
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                try:
                    yield future.result()
                except SpeakerLMError as error:
                    failure = failure or error
    if failure:
        raise failure


def _row(listener: Listener, prompt: Prompt, about: dict[str, Any], wave: Any, job: str) -> dict[str, Any]:
    began = time.monotonic()
    seconds = len(wave) / SAMPLE_RATE
    reply = listener.hear(wave, prompt.of(seconds))
    return {
        **about, "duration": seconds, "mode": job, "n_ov": None, "names": list(listener.references),
        "format": listener.system.format, "raw": reply.text, "stop": reply.stop, "model": listener.model,
        "prompt_sha256": prompt.sha256, "usage": dict(reply.usage), "attempts": reply.attempts,
        "seconds": time.monotonic() - began,
    }  # fmt: skip


def _write_cost(out: Path, rows: list[dict[str, Any]], prices: Prices) -> dict[str, Any]:
    """Write ``cost.json``."""
    used = [tokens(row) for row in rows]
    cost = {
        "clips": len(rows), "audio_seconds": sum(r["duration"] for r in rows),
        "tokens_in": sum(u[0] for u in used), "tokens_out": sum(u[1] for u in used),
        "cut": sum(r["stop"] == "cut" for r in rows), "attempts": sum(r["attempts"] for r in rows),
        "dollars": round(sum(map(prices.of, rows)), 6), "prices": vars(prices),
    }  # fmt: skip
    (out / "cost.json").write_text(json.dumps(cost, indent=1) + "\n", encoding="utf-8")
    return cost


def known_speakers(folder: Path) -> dict[str, bytes]:
    """Return name → WAV of each audio file of a folder, named after the speaker.

    Raises:
        ConfigError: no file, more than four, or one that is not 2 to 10 s long.
    """
    from shards.sound.audio import load

    files = sorted(f for f in folder.iterdir() if f.is_file()) if folder.is_dir() else []
    if not 1 <= len(files) <= MOST_REFERENCES:
        raise ConfigError(f"--known-speakers {folder}: {len(files)} files, not 1 to {MOST_REFERENCES} named NAME.wav")
    waves = {f.stem: load(f) for f in files}
    low, high = REFERENCE_SECONDS
    for name, wave in waves.items():
        if not low <= len(wave) / SAMPLE_RATE <= high:
            raise ConfigError(
                f"--known-speakers {folder}: {name} has {len(wave) / SAMPLE_RATE:.1f} s; give {low:g} to {high:g} s"
            )
    return {name: wav(wave) for name, wave in waves.items()}
