"""The step on one GPU at the sizes of the 7B recipe, with random weights: speed, MFU, HFU and memory.

    python benchmarks/gpu_step.py                # Qwen2.5-7B and SenseVoiceSmall sizes, under 10 minutes on an H100
    python benchmarks/gpu_step.py --small        # tiny sizes on whatever is here: does every case run?

Cases: the four stages' trainable sets at 2 k, 6 k and 16 k positions with activation checkpointing; without it where
memory allows; packed against padded utterances; the chunked loss on and off; against a plain transformers LLM with
peft's LoRA on text of as many positions, interleaved. A case that fails says why, the rest continue; when the time is
used up, cases that are left are listed as not run. A step is forward, backward and AdamW; timed after one that is not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

from benchmarks.gpu_cases import beside_plain_text, deepspeed_step, ours, padded, whole_logits
from benchmarks.gpu_parts import HEAD, Bench, shape

TARGETS = {"mfu_stage4_6k": 0.40, "packed_over_padded": 1.8, "ours_over_plain_text": 0.95}


def run(b: Bench) -> dict[str, float | None]:
    """All cases, the most telling first; figures for the targets."""
    short, middle, long = b.positions
    b.build()
    figures: dict[str, float | None] = {}
    main = b.case(f"stage 4, {middle}, checkpointing", lambda: ours(b, 4, middle, True))
    bare = b.case(f"stage 4, {middle}, none", lambda: ours(b, 4, middle, False))
    dry = b.case(f"stage 4, {middle}, none, no LoRA dropout", lambda: ours(b, 4, middle, False, dropout=0.0))
    if bare is None:
        for part in (3, 2):
            size = middle * part // 4
            if b.case(f"stage 4, {size}, none", lambda size=size: ours(b, 4, size, False)):
                break
    best = bare or dry
    figures["mfu_stage4_6k"] = best["mfu"] if best else None
    figures["mfu_stage4_6k_checkpointing"] = main["mfu"] if main else None
    rows = {
        pad: b.case(f"utterances, {middle}, {'padded' if pad else 'packed'}", lambda pad=pad: padded(b, middle, pad))
        for pad in (False, True)
    }
    figures["packed_over_padded"] = _ratio(rows[False], rows[True])
    off = b.case(f"stage 4, {middle}, logits everywhere", lambda: whole_logits(b, middle))
    figures["chunked_loss_speedup"] = _ratio(main, off)
    figures["chunked_loss_saves_gib"] = off["peak_gib"] - main["peak_gib"] if main and off else None
    beside = b.case(f"stage 4 beside plain text, {middle}", lambda: beside_plain_text(b, middle))
    figures["ours_over_plain_text"] = beside["over_plain"] if beside else None
    for stage in (1, 2, 3, 4):
        for size in (short, middle, long):
            if (stage, size) != (4, middle):
                b.case(f"stage {stage}, {size}, checkpointing", lambda s=stage, n=size: ours(b, s, n, True))
    for stage in (1, 2, 3, 4):
        b.case(f"stage {stage}, {short}, none", lambda s=stage: ours(b, s, short, False))
    for stage in (2, 3):
        b.case(f"stage {stage}, {middle}, none", lambda s=stage: ours(b, s, middle, False))
    engine = b.case(f"stage 4, {middle}, checkpointing, DeepSpeed ZeRO-3", lambda: deepspeed_step(b, middle))
    figures["deepspeed_over_bare"] = _ratio(engine, main)
    return figures


def _ratio(a: dict[str, Any] | None, b: dict[str, Any] | None) -> float | None:
    return a["tokens_s"] / b["tokens_s"] if a and b else None


def missing() -> str | None:
    """Name of a package that the benchmark needs and this Python has not: found before the clock starts."""
    try:
        for name in ("torch", "transformers", "peft", "deepspeed", "omegaconf", "pipeline.ranks.launch"):
            importlib.import_module(name)
        import torch

        from pipeline.model.configuration_speakerlm import SpeakerLMConfig
        from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration

        with torch.device("meta"):  # its parts import what they need when they are made
            SpeakerLMForConditionalGeneration(SpeakerLMConfig(**shape(small=True)))
    except ModuleNotFoundError as e:
        return e.name
    return None


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU too")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed or a case has failed")
    parser.add_argument("--seconds", type=float, default=540, help="no case is begun later than this")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of a case")
    parser.add_argument("--out", type=Path, help="folder for gpu_step.json with every row")
    args = parser.parse_args()
    if lacking := missing():
        print(f"the package {lacking} is missing here: install it, or put its wheel beside the others", file=sys.stderr)
        return 3
    import torch

    from pipeline.model.packed_attention import choose

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(1)
    if not on_gpu and not args.small:
        print("no GPU here: --small runs every case at tiny sizes on a CPU", file=sys.stderr)
        return 2
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    bench = Bench(args.small, device, dtype, args.seconds, args.repeats)
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    print(f"{name}, torch {torch.__version__}, packed attention by {choose(device, dtype)}")
    print(HEAD, flush=True)
    figures = run(bench)
    failed = [r["case"] for r in bench.rows if "error" in r]
    if failed:
        print(f"{len(failed)} of {len(bench.rows)} cases have no figures: {'; '.join(failed)}")
    targets = {} if args.small else TARGETS
    met = all((figures.get(n) or 0) >= least for n, least in targets.items())
    rounded = {n: round(v, 4) if v is not None else None for n, v in figures.items()}
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        where = {"device": name, "torch": torch.__version__, "seconds": time.perf_counter() - bench.began}
        (args.out / "gpu_step.json").write_text(json.dumps({**where, "rows": bench.rows, "figures": rounded}, indent=1))
    print(json.dumps({"name": "gpu_step", "figures": rounded, "targets": targets, "met": met}))
    return int(args.check and (not met or bool(failed)))


if __name__ == "__main__":
    sys.exit(main())
