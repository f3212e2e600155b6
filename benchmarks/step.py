"""The step on a CPU, against what it replaces, interleaved: process CPU time, medians of rounds.

Packed against padded: forward and backward of the same samples through the same small model. Target-only chunked loss
against logits at every position and torch's cross-entropy, at Qwen2.5's vocabulary: CPU time, and peak resident memory
of a fresh process each. The loop's own time: all that Trainer.update does outside forward, backward and engine.step.
Each part is a separate process that begins no round after its share of --seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TARGETS = {
    "packed_over_padded_utterances": 1.3,  # at least
    "packed_over_padded_clips": 1.0,
    "loss_time_ratio": 1.0,
    "loss_memory_ratio": 5.0,
    "loop_ms": 10.0,  # at most
}
VOCABULARY, WIDTH, POSITIONS, LOSS_TARGETS = 151_936, 256, 2000, 400  # of the loss
LEAST_ROUNDS = 3
PARTS = ("packing", "loss", "memory-ours", "memory-full", "loop")


def model_of_size(width: int) -> Any:
    """SpeakerLM with random weights: an encoder of 4 + 1 layers of 128, an LLM of 4 layers of this width."""
    import torch

    from pipeline.model.configuration_speakerlm import SpeakerLMConfig
    from pipeline.model.encoders.sensevoice import sensevoice_conf
    from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
    from pipeline.stages import STAGES

    llm = {
        "model_type": "qwen2", "vocab_size": 4000, "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    encoder = sensevoice_conf(128, 4, 1) | {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    torch.manual_seed(0)
    config = SpeakerLMConfig(
        encoder_conf=encoder, feature_shift=[-8.0] * 560, feature_scale=[0.2] * 560,
        projector={"layers": 2, "heads": 4, "ffn": 256, "dropout": 0.0, "stride": 2}, llm=llm,
        lora={"r": 8, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    )  # fmt: skip
    model = SpeakerLMForConditionalGeneration(config)
    model.trainable(STAGES[4].trains)
    return model.train()


def interleaved(works: dict[str, Callable[[], Any]], rounds: int, limit: float) -> dict[str, list[float]]:
    """CPU seconds of each work, in turn; the first round is not counted, and after ``limit`` seconds none is begun."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    ends = time.monotonic() + limit
    for number in range(rounds + 1):
        if number > LEAST_ROUNDS and time.monotonic() > ends:
            break
        for name, work in works.items():
            begin = time.process_time()
            work()
            if number:
                seconds[name].append(time.process_time() - begin)
    return seconds


def packed_and_padded(width: int, rounds: int, limit: float) -> dict[str, dict[str, Any]]:
    """CPU seconds, valid positions, share of padding, of utterances and of clips."""
    from benchmarks.micro_batches import clips, micro_batch, padded_loss, utterances

    model = model_of_size(width)
    out = {}
    for kind, samples in (("utterances", utterances(16)), ("clips", clips(2))):
        rows = {pad: micro_batch(samples, 4000, 192, "cpu", pad) for pad in (False, True)}
        losses = {}

        def packed(rows: Any = rows, losses: Any = losses) -> None:
            model.zero_grad()
            loss = model(**rows[False]).loss
            loss.backward()
            losses["packed"] = loss.item()

        def padded(rows: Any = rows, samples: Any = samples, losses: Any = losses) -> None:
            model.zero_grad()
            loss = padded_loss(model, rows[True], samples)
            loss.backward()
            losses["padded"] = loss.item()

        seconds = interleaved({"packed": packed, "padded": padded}, rounds, limit / 2)
        if abs(losses["packed"] / losses["padded"] - 1) > 1e-4:
            raise SystemExit(f"{kind}: packed loss {losses['packed']}, padded {losses['padded']}: not the same work")
        valid = sum(s.positions for s in samples)
        padding = 1 - valid / (len(samples) * max(s.positions for s in samples))
        out[kind] = {"seconds": seconds, "positions": valid, "padding": padding}
    return out


def one_loss(kind: str) -> Callable[[], None]:
    """Loss and gradient of hidden states at a real vocabulary: ``ours`` or ``full``."""
    import torch

    from pipeline.model.loss import token_losses_sum

    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)
    hidden = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    index = torch.arange(POSITIONS - LOSS_TARGETS, POSITIONS)
    labels = torch.randint(0, VOCABULARY, (LOSS_TARGETS,))

    def ours() -> None:
        token_losses_sum(head, hidden.index_select(0, index), labels, chunk=128).backward()

    def full() -> None:
        logits = head(hidden).float()
        everywhere = torch.full((POSITIONS,), -100)
        everywhere[index] = labels
        torch.nn.functional.cross_entropy(logits, everywhere, reduction="sum", ignore_index=-100).backward()

    return ours if kind == "ours" else full


def loss_memory(kind: str) -> float:
    """Peak resident MiB that one loss adds; the first one of its process."""
    work = one_loss(kind)
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    """MiB of this process by /proc: getrusage would begin at the peak of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(text.split()[1]) for text in lines if text.startswith(name)) / 1024


def loop_times(steps: int, limit: float) -> list[float]:
    """Milliseconds per step of Trainer.update without forward, backward and engine.step; one process, gloo."""
    from benchmarks.support.training import make_parts, tiny_recipe
    from pipeline.flops import Meter
    from pipeline.model.build import load_tokenizer
    from pipeline.ranks.launch import init_distributed
    from pipeline.ranks.stop import StopRequest
    from pipeline.recipe.deepspeed import resolve_deepspeed
    from pipeline.stages import STAGES
    from pipeline.train.engine import initialize
    from pipeline.train.run import Run
    from pipeline.train.run_stage import build
    from pipeline.train.stage_data import StageData
    from pipeline.train.trainer import Trainer

    ranks = init_distributed(60)
    with tempfile.TemporaryDirectory(prefix="speakerlm-bench-") as folder:
        make_parts(Path(folder))
        recipe = tiny_recipe(Path(folder), Path(folder) / "run", max_steps=10**6)
        ds_config = resolve_deepspeed(recipe, 1)
        model, source, bases = build(recipe, ds_config, ranks, None)
        meter = Meter.of(model, STAGES[recipe.stage].trains, 1)
        engine = initialize(model, ds_config)
        data = StageData(recipe, ranks, load_tokenizer(recipe.model))
        trainer = Trainer(Run(recipe, ranks, engine, data, StopRequest(), bases, source, None, meter))
        inside = [0.0]
        for owner, name in ((trainer, "forward"), (trainer.engine, "backward"), (trainer.engine, "step")):
            setattr(owner, name, _timed(getattr(owner, name), inside))
        out = []
        ends = time.monotonic() + limit
        for number in range(steps + 5):
            if len(out) >= LEAST_ROUNDS and time.monotonic() > ends:
                break
            batches = next(trainer.steps)
            inside[0], begin = 0.0, time.process_time()
            record, _ = trainer.update(batches.micro_batches, 0.0)
            trainer.log(record, batches.figures)
            if number >= 5:
                out.append(1000 * (time.process_time() - begin - inside[0]))
            trainer.step += 1
    return out


def _timed(call: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return call(*args, **kwargs)
        finally:
            total[0] += time.process_time() - begin

    return run


def in_this_process(part: str, args: argparse.Namespace) -> Any:
    """One part's measurements, as JSON can say them."""
    import torch

    torch.set_num_threads(1)
    limit = args.seconds / 3
    if part == "packing":
        return packed_and_padded(args.width, args.rounds, limit)
    if part == "loss":
        return interleaved({kind: one_loss(kind) for kind in ("ours", "full")}, args.rounds, limit)
    if part == "loop":
        return loop_times(args.steps, limit)
    return loss_memory(part.removeprefix("memory-"))


def in_its_own(part: str) -> Any:
    """The same from a separate process; what else it prints goes to stderr."""
    command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"the part {part!r} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--width", type=int, default=512, help="of the LLM in packed against padded")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40, help="of the loop")
    parser.add_argument("--seconds", type=float, default=360, help="after which no round is begun")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(in_this_process(args.part, args)))
        return 0
    found = {part: in_its_own(part) for part in PARTS}
    memory = {kind: found[f"memory-{kind}"] for kind in ("ours", "full")}
    print(f"packed against padded: encoder of 5 layers of 128, LLM of 4 layers of {args.width}, vocabulary 4,000")
    return report(found["packing"], found["loss"], memory, found["loop"], args.check)


def report(
    pairs: dict[str, dict[str, Any]],
    losses: dict[str, list[float]],
    memory: dict[str, float],
    loop: list[float],
    check: bool,
) -> int:
    """The table and the line of JSON."""
    middle = statistics.median
    figures: dict[str, float] = {}
    print(f"{'':34}{'CPU s':>8}{'least':>8}{'most':>8}{'valid tokens/s':>16}")
    for kind, found in pairs.items():
        for form, seconds in found["seconds"].items():
            speed = found["positions"] / middle(seconds)
            print(f"{kind + ', ' + form:34}{middle(seconds):8.3f}{min(seconds):8.3f}{max(seconds):8.3f}{speed:16.0f}")
        ratios = [b / a for a, b in zip(found["seconds"]["packed"], found["seconds"]["padded"], strict=True)]
        figures[f"packed_over_padded_{kind}"] = middle(ratios)
        print(
            f"  ratio {middle(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), {found['padding']:.0%} is padding"
        )
    print(f"loss: {POSITIONS} positions, {LOSS_TARGETS} of them targets, vocabulary {VOCABULARY:,}, width {WIDTH}")
    for kind, label in (("ours", "targets only, in chunks"), ("full", "logits at every position")):
        seconds = losses[kind]
        row = f"{middle(seconds):8.3f}{min(seconds):8.3f}{max(seconds):8.3f}"
        print(f"{label:34}{row}{memory[kind]:12.0f} MiB")
    figures["loss_time_ratio"] = middle([b / a for a, b in zip(losses["ours"], losses["full"], strict=True)])
    figures["loss_memory_ratio"] = memory["full"] / memory["ours"]
    figures["loop_ms"] = middle(loop)
    print(f"loop without forward, backward, step: {middle(loop):.2f} ms ({min(loop):.2f} to {max(loop):.2f})")
    met = all(figures[n] <= t if n == "loop_ms" else figures[n] >= t for n, t in TARGETS.items())
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({"name": "step", "figures": rounded, "targets": TARGETS, "met": met}))
    return int(check and not met)


if __name__ == "__main__":
    sys.exit(main())
