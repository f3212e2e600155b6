"""Benefit of a line of context: spellings that no one can hear, learnt by a tiny LLM from nothing.

Sixteen names have two spellings that sound alike, as Meier and Maier do. What is heard does not say which: one spelling
comes in 85 % of the clips, the other is rare. For each seed a Qwen2 of two layers learns from the project's
prompts with lines of context drawn as in training; in place of encoder and projector each name has a learnt sound, as
stage 0's LLM has. Then it writes every name eight times in its rare and in its frequent spelling, with three prompts:

- ``without`` a line
- ``with`` a line that names the spelling among four other terms
- ``others``: a line of these four terms alone

Figures are shares of names whose spelling is right, paired by clip: means over seeds, and the difference to ``without``
with a 95 % interval (Student's t).

Target: with the line the rare spelling is right more often than without it, by an interval above 0; a line of other
terms costs the frequent one at most 5 points.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from pipeline.data.context import draw_context
from pipeline.prompts import AudioPiece, Mode, PromptTokenizer, prompt_pieces
from pipeline.recipe.schema import ContextConfig
from pipeline.standins.random_models import make_tokenizer

NAMES, RARE = 16, 0.15  # names, and the share of their rare spelling
CONTEXT = ContextConfig(share=0.8, max_terms=1, max_distractors=4)
OTHERS, TIMES, HEARD = 4, 8, 2  # other terms of a test's line, clips of a spelling, audio positions of a name
HIDDEN, BATCH, PEAK = 64, 32, 3e-3
LINES, SPELLINGS = ("without", "with", "others"), ("frequent", "rare")
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t, by number of seeds
FRAME = "Context: , \n Transcribe the speech. <start><end> You are a helpful assistant. system user assistant"


@dataclass(frozen=True)
class Clip:
    """A prompt and what to write."""

    prompt: tuple[int, ...]
    audio: tuple[int, ...]  # positions of the prompt where the name is heard
    name: int
    target: tuple[int, ...]


def names() -> list[tuple[str, str]]:
    """Make up names: their frequent and their rare spelling."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    made = np.random.default_rng(0).permutation(len(syllables) ** 2)[: 2 * NAMES].tolist()
    spelt = ["X" + syllables[i // len(syllables)] + syllables[i % len(syllables)] for i in made]
    return list(zip(spelt[:NAMES], spelt[NAMES:], strict=True))


def clip(tokenizer: PromptTokenizer, name: int, spelling: str, terms: Sequence[str]) -> Clip:
    """Make a clip of one name."""
    ids: list[int] = []
    audio: tuple[int, ...] = ()
    for item in tokenizer.encode_prompt(prompt_pieces(Mode.ASR, (), terms)):
        if isinstance(item, AudioPiece):
            audio = tuple(range(len(ids), len(ids) + HEARD))
            ids += [0] * HEARD
        elif isinstance(item, int):
            ids.append(item)
    return Clip(tuple(ids), audio, name, tokenizer.encode_common(f" {spelling}"))


def logits(llm: Any, sounds: Any, clips: Sequence[Clip]) -> tuple[Any, Any]:
    """Return (B, n, V) logits where targets are predicted, and (B, n) targets; padded on the left."""
    import torch

    rows = [[*c.prompt, *c.target] for c in clips]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    heard = [(i, length - len(rows[i]) + at, c.name) for i, c in enumerate(clips) for at in c.audio]
    row, at, name = torch.tensor(heard).unbind(1)
    embeds = llm.get_input_embeddings()(ids).index_put((row, at), sounds(name))
    position = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = llm.model(inputs_embeds=embeds, attention_mask=mask, position_ids=position, use_cache=False)
    n = len(clips[0].target)
    return llm.lm_head(hidden.last_hidden_state[:, -1 - n : -1]), ids[:, -n:]


def train(tokenizer: PromptTokenizer, seed: int, steps: int) -> tuple[Any, Any]:
    """Train an LLM and the sounds of names."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    rng, spelt = np.random.default_rng(seed), names()
    config = Qwen2Config(
        vocab_size=len(tokenizer.tokenizer), hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    llm, sounds = Qwen2ForCausalLM(config), torch.nn.Embedding(NAMES, HIDDEN)
    torch.nn.init.normal_(sounds.weight, std=0.3)
    parameters = [*llm.parameters(), *sounds.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.01)
    every = [term for pair in spelt for term in pair]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(1.0, (step + 1) / 50) * (1 - 0.95 * step / steps)
        clips = []
        for i in range(BATCH):
            name = int(rng.integers(NAMES))
            said = spelt[name][int(rng.random() < RARE)]
            clips.append(clip(tokenizer, name, said, draw_context([said], every, CONTEXT, (seed, step, i))))
        found, wanted = logits(llm, sounds, clips)
        loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return llm.eval(), sounds


def shares_right(folder: Path, steps: int, seed: int) -> dict[str, float]:
    """Train with a seed; return ``SPELLING LINE`` → share of names whose spelling is right."""
    import torch

    torch.set_num_threads(1)
    tokenizer, spelt = PromptTokenizer.from_folder(folder), names()
    llm, sounds = train(tokenizer, seed, steps)
    every = [term for pair in spelt for term in pair]
    shares = {}
    for which, spelling in enumerate(SPELLINGS):
        for line in LINES:
            rng, clips = np.random.default_rng(seed + 1000), []  # the same other terms in every line
            for i in range(NAMES * TIMES):
                name = i % NAMES
                terms = [t for t in rng.permutation(every).tolist() if t not in spelt[name]][:OTHERS]
                place = int(rng.integers(OTHERS + 1))
                if line == "with":
                    terms.insert(place, spelt[name][which])
                clips.append(clip(tokenizer, name, spelt[name][which], [] if line == "without" else terms))
            with torch.inference_mode():
                found, wanted = logits(llm, sounds, clips)
            shares[f"{spelling} {line}"] = (found.argmax(-1) == wanted).all(-1).float().mean().item()
    return shares


def main() -> int:
    """Measure, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, choices=sorted(T95), help="models that are trained")
    parser.add_argument("--steps", type=int, default=1200, help="of each")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(args.workers) as pool:
        words = [f" {term}" for pair in names() for term in pair]
        make_tokenizer(Path(folder), [FRAME, *words] * 3, vocab_size=700)
        seeds = list(pool.map(partial(shares_right, Path(folder), args.steps), range(1, args.seeds + 1)))
    figures: dict[str, float] = {}
    for key in seeds[0]:
        spelling, _ = key.split()
        gains = [s[key] - s[f"{spelling} without"] for s in seeds]
        gain, half = statistics.mean(gains), T95[len(gains)] * statistics.stdev(gains) / len(gains) ** 0.5
        figures |= {key: statistics.mean(s[key] for s in seeds), f"{key} gain": gain, f"{key} least": gain - half}
        each = " ".join(f"{s[key]:.2f}" for s in seeds)
        print(f"{key:<17} {figures[key]:6.1%}   gain {gain:+.1%} ({gain - half:+.1%} to {gain + half:+.1%})   {each}")
    met = figures["rare with least"] > 0 and figures["frequent others gain"] >= -0.05
    rounded = {name: round(value, 4) for name, value in figures.items()}
    print(json.dumps({"name": "context", "figures": rounded, "targets": {"rare with least": 0.0}, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
