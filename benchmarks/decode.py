"""Decoding on one CPU core: real-time factor and memory of SpeakerLM-tiny with a batch of 1 and of 8.

The model has the shape of `launch/recipes/tiny` and random weights, and every answer is cut off at the same number of
tokens, so that a figure says what the machinery costs and not how much a model has to say; `--run` decodes with a
finished run, which stops at its end token. Rounds of both batch sizes alternate. Target: 8 together cost at most 0.6
times the CPU time of 8 alone, and one alone keeps up with the speaker (real-time factor below 1).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from pipeline.decode.generate import ask
from pipeline.decode.load_run import load_for_decoding
from pipeline.model.stopping import Guards
from pipeline.prompts import Mode, Prompt, prompt_pieces
from pipeline.ranks.memory import peak_bytes

BATCHES = (1, 8)
RATIO, REAL_TIME = 0.6, 1.0
TOKENS_PER_SECOND = 5  # of audio: what people say


def random_model(folder: Path) -> tuple[Any, Any]:
    """SpeakerLM-tiny's shape with random weights."""
    from pipeline.model.build import build_model, load_tokenizer
    from pipeline.recipe.schema import EncoderConfig, LlmConfig, LoraConfig, ModelConfig, ProjectorConfig
    from pipeline.standins.random_models import make_encoder, make_llm, make_tokenizer

    texts = ("Registered Speaker Embeddings:\nTranscribe by roles. <start><end>\nspk0: one\nspk1: two three",)
    llm = make_tokenizer(folder / "llm", texts)
    make_llm(llm, 1024, hidden=128, layers=4)
    config = ModelConfig(
        encoder=EncoderConfig(checkpoint=str(make_encoder(folder / "encoder", 128, 4, 1)), dropout=0.0),
        projector=ProjectorConfig(heads=4, ffn=256, dropout=0.0),
        llm=LlmConfig(checkpoint=str(llm)),
        lora=LoraConfig(dropout=0.0),
        speaker_dim=192,
        extractor="none",
    )
    return build_model(config).eval(), load_tokenizer(config)


def prompts(count: int, seconds: float) -> list[Prompt]:
    """Noise: what is in the audio changes nothing in the cost."""
    rng = np.random.default_rng(0)
    pieces = tuple(prompt_pieces(Mode.NO))
    return [Prompt(pieces, rng.normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)) for _ in range(count)]


def one_round(model: Any, tokenizer: Any, asked: list[Prompt], batch: int, guards: Guards) -> tuple[float, float, int]:
    """CPU seconds, wall seconds and tokens of decoding everything."""
    cpu, wall, tokens = time.process_time(), time.monotonic(), 0
    for i in range(0, len(asked), batch):
        tokens += sum(a.tokens for a in ask(model, tokenizer, asked[i : i + batch], guards))
    return time.process_time() - cpu, time.monotonic() - wall, tokens


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--run", type=Path, help="decode with this finished run")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=45.0, help="of each clip; the demo's are 12 s")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    guards = Guards(tokens_per_second=TOKENS_PER_SECOND, least_tokens=0, repeats=10_000, shortest_run=10_000)
    with tempfile.TemporaryDirectory() as folder:
        if args.run:
            model, tokenizer, _ = load_for_decoding(args.run, "cpu")
            guards = Guards()
        else:
            model, tokenizer = random_model(Path(folder))
    asked = prompts(args.clips, args.seconds)
    audio = args.clips * args.seconds
    one_round(model, tokenizer, asked[:1], 1, guards)  # the first forward allocates
    rounds = [{b: one_round(model, tokenizer, asked, b, guards) for b in BATCHES} for _ in range(args.rounds)]
    print(f"{args.clips} clips of {args.seconds:g} s, {args.rounds} rounds, medians; one thread of one core")
    print(f"{'batch':>5}{'CPU s':>9}{'RTF':>9}{'spread':>16}{'tokens':>8}{'tokens/s':>10}")
    factors: dict[int, list[float]] = {}
    for batch in BATCHES:
        cpus = [r[batch][0] for r in rounds]
        tokens = rounds[0][batch][2]
        factors[batch] = sorted(c / audio for c in cpus)
        middle = statistics.median(cpus)
        spread = f"{factors[batch][0]:.4f}–{factors[batch][-1]:.4f}"
        print(f"{batch:5}{middle:9.2f}{middle / audio:9.4f}{spread:>16}{tokens:8}{tokens / middle:10.0f}")
    ratios = sorted(r[8][0] / r[1][0] for r in rounds)
    ratio = statistics.median(ratios)
    print(
        f"batch 8 / batch 1: {ratio:.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f}); peak memory {peak_bytes() / 2**20:.0f} MiB"
    )
    figures = {
        "rtf_batch_1": round(statistics.median(factors[1]), 5),
        "rtf_batch_8": round(statistics.median(factors[8]), 5),
        "ratio_8_to_1": round(ratio, 4),
        "spread": [round(ratios[0], 4), round(ratios[-1], 4)],
        "peak_mib": round(peak_bytes() / 2**20),
        "seconds_of_audio": audio,
    }
    met = ratio <= RATIO and figures["rtf_batch_1"] < REAL_TIME
    targets = {"ratio_8_to_1": RATIO, "rtf_batch_1": REAL_TIME}
    print(json.dumps({"name": "decode", "figures": figures, "targets": targets, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
