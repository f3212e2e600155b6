"""The server under load on a CPU: 200 requests at concurrency 16, then as many more as make 500, by OpenAI's client.

The model has the shape of `launch/recipes/tiny` and random weights; answers are cut off at what is said in that time.
Each request uploads a clip of six seconds, the server runs in a process of its own. Wall times hold for the machine and
its load. Targets: no request is lost, and memory after all requests is at most 1.05 times that after the first 100.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile

from benchmarks.decode import TOKENS_PER_SECOND, random_model
from pipeline.decode.engine import answer
from pipeline.decode.transformers_engine import TransformersEngine
from pipeline.model.stopping import Guards
from shards.sample import SAMPLE_RATE

SECONDS = 6.0  # of a clip
WARM_UP = 100  # requests before memory is compared
GROWTH = 1.05


def serve(folder: Path) -> int:
    """Run the server until SIGTERM; print its address."""
    from pipeline.serve.limits import Limits
    from pipeline.serve.server import Server, bind
    from pipeline.serve.service import Service
    from pipeline.transcribe.transcriber import TranscribeOptions, Transcriber
    from shards.manifests.clips import ClipRule

    model, tokenizer = random_model(folder / "model")
    guards = Guards(tokens_per_second=TOKENS_PER_SECOND, least_tokens=0, repeats=10_000, shortest_run=10_000)
    options = TranscribeOptions(ClipRule((8.0, 12.0), (6.0, 14.0)), vad="energy", naming="none")
    engine = TransformersEngine(model, tokenizer, guards)
    transcriber = Transcriber(partial(answer, engine), _no_extractor, options, model="tiny")
    service = Service(transcriber, engine, ["tiny"], folder, Limits())
    listener = bind("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    Server(service, ready=lambda: print(address, flush=True)).run(sockets=[listener])
    service.close()
    return 0


def _no_extractor() -> None:
    raise AssertionError("no speaker model is used without naming")


def clip() -> bytes:
    """Bursts of noise: speech, for the detector."""
    rng = np.random.default_rng(0)
    t = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * rng.normal(size=len(t)) * (t % 1.5 < 1.0), SAMPLE_RATE, format="FLAC")
    return buffer.getvalue()


def resident(pid: int) -> float:
    """MiB of a process's memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def measure(address: str, pid: int, timed: int, total: int, concurrency: int) -> dict[str, float]:
    """Send the requests; return the figures."""
    import openai

    audio = clip()
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=600)

    def one(_: int) -> float | None:
        begin = time.monotonic()
        try:
            client.audio.transcriptions.create(file=("clip.flac", audio), model="tiny", response_format="verbose_json")
        except openai.OpenAIError as error:
            print(f"lost: {error}", file=sys.stderr)
            return None
        return time.monotonic() - begin

    memory: dict[int, float] = {}
    with ThreadPoolExecutor(concurrency) as pool:
        if one(0) is None:
            raise SystemExit("no request is answered")
        begin, wall = time.monotonic(), 0.0
        found: list[float | None] = []
        while len(found) < total:
            more = min(WARM_UP, total - len(found), timed - len(found) if len(found) < timed else total)
            found += pool.map(one, range(more))
            memory[len(found)] = resident(pid)
            wall = wall or (time.monotonic() - begin if len(found) >= timed else 0.0)
    walls = sorted(w for w in found[:timed] if w is not None)
    print("requests and MiB of the server: " + ", ".join(f"{n}: {m:.0f}" for n, m in memory.items()))
    return {
        "lost": found.count(None),
        "p50_s": round(statistics.median(walls), 3),
        "p95_s": round(walls[int(0.95 * (len(walls) - 1))], 3),
        "requests_per_s": round(timed / wall, 2),
        "audio_s_per_s": round(timed * SECONDS / wall, 1),
        "first_mib": round(memory[min(memory)], 1),
        "last_mib": round(memory[max(memory)], 1),
        "growth": round(memory[max(memory)] / memory[min(memory)], 4),
    }


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--requests", type=int, default=200, help="whose times are taken")
    parser.add_argument("--total", type=int, default=500, help="over which memory is watched")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--serve", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                address = next(line.strip() for line in server.stdout if line.startswith("http://"))
                figures = measure(address, server.pid, args.requests, args.total, args.concurrency)
            finally:
                server.terminate()
                server.wait()
    print(f"{args.requests} requests at concurrency {args.concurrency}: {figures['requests_per_s']} per second, "
          f"p50 {figures['p50_s']} s, p95 {figures['p95_s']} s, {figures['lost']} lost")  # fmt: skip
    met = figures["lost"] == 0 and figures["growth"] <= GROWTH
    print(json.dumps({"name": "serve", "figures": figures, "targets": {"lost": 0, "growth": GROWTH}, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
