"""Speed and memory of ``--quantize``, int8 or nf4: an LLM of Qwen2.5-0.5B's shape with random weights, on one CPU core.

Both models write the same prompt's answer in the same run, round by round: a prompt is read, then tokens are written
one at a time, for one clip and for eight. Figures are medians of CPU time, and the bytes of weights and buffers.

Target of int8: written tokens cost at most 0.7 of float32's CPU time.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PROMPT, WRITTEN = 300, 8  # positions of a prompt, tokens that are timed
MOST = {"token of one clip": 0.7, "token of eight clips": 0.7}


def make_llm(layers: int) -> Any:
    """Make the LLM: its layers as in Qwen2.5-0.5B, fewer of them, and its vocabulary, with tied embeddings."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=layers, num_attention_heads=14,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def bytes_of(llm: Any) -> int:
    """Return the bytes of weights and buffers; shared ones count once."""
    return sum({t.data_ptr(): t.nbytes for t in (*llm.parameters(), *llm.buffers())}.values())


def seconds(llm: Any, clips: int) -> tuple[float, float]:
    """Return CPU seconds of reading a prompt of each clip, and of a written token of all of them."""
    import torch

    ids = torch.arange(clips * PROMPT).view(clips, PROMPT) % 1000
    with torch.inference_mode():
        began = time.process_time()
        state = llm(input_ids=ids, logits_to_keep=1)
        read = time.process_time() - began
        each = []
        for _ in range(WRITTEN):
            began = time.process_time()
            state = llm(input_ids=state.logits[:, -1:].argmax(-1), past_key_values=state.past_key_values)
            each.append(time.process_time() - began)
    return read, statistics.median(each)


def main() -> int:
    """Measure, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="of the LLM; Qwen2.5-0.5B has 24")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quantize", default="int8", choices=("int8", "nf4"), help="nf4 needs bitsandbytes")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    args = parser.parse_args()
    import torch

    from pipeline.decode.load_engine import smaller

    torch.set_num_threads(1)
    plain = make_llm(args.layers)
    rounded = copy.deepcopy(plain)
    model = SimpleNamespace(llm=rounded, device=torch.device("cpu"))
    model.to = lambda _: model
    smaller(model, "cpu", args.quantize)
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(args.rounds):
        for clips, name in ((1, "one clip"), (8, "eight clips")):
            read, written = zip(seconds(plain, clips), seconds(rounded, clips), strict=True)
            times.setdefault(f"prompt of {name}", []).append(read)
            times.setdefault(f"token of {name}", []).append(written)
    figures: dict[str, float] = {}
    name = args.quantize
    for what, pairs in times.items():
        before, after = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        figures[what] = round(statistics.median(b / a for a, b in pairs), 3)
        print(f"{what:<22} float32 {before * 1000:8.1f} ms   {name} {after * 1000:8.1f} ms   ratio {figures[what]:.2f}")
    sizes = bytes_of(plain), bytes_of(rounded)
    figures["bytes"] = round(sizes[1] / sizes[0], 3)
    before, after = (size / 2**20 for size in sizes)
    print(f"{'weights':<22} float32 {before:8.0f} MiB  {name} {after:8.0f} MiB  ratio {figures['bytes']:.2f}")
    targets = MOST if name == "int8" else {}
    met = all(figures[what] <= most for what, most in targets.items())
    print(json.dumps({"name": name, "figures": figures, "targets": targets, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
