"""The step on one GPU at the sizes of the 7B recipe, with random weights: speed, MFU, HFU and memory.

    python benchmarks/gpu_step.py                # Qwen2.5-7B and SenseVoiceSmall sizes, under 10 minutes on an H100
    python benchmarks/gpu_step.py --small        # tiny sizes on whatever is here: does every case run?

Cases: the four stages' trainable sets at 2 k, 6 k and 16 k positions with activation checkpointing; with less of it
where preflight's count of memory says that the card holds it; packed against padded utterances; the chunked loss on
and off; against a plain transformers LLM with
peft's LoRA on text of as many positions, interleaved. A case that fails says why, the rest continue; when the time is
used up, cases that are left are listed as not run. A step is forward, backward and AdamW; timed after one that is not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_cases import beside_plain_text, deepspeed_step, ours, padded, whole_logits
from benchmarks.gpu_needs import NAMES, Case, Needs, card_gib
from benchmarks.gpu_parts import HEAD, Bench, shape
from pipeline.ranks.memory import use_expandable_segments

TARGETS = {"mfu_stage4_6k": 0.40, "packed_over_padded": 1.8, "ours_over_plain_text": 0.95}


def run(b: Bench, needs: Mapping[str, float]) -> dict[str, float | None]:
    """All cases that fit, the most telling first; figures for the targets.

    Args:
        needs: name of a case → GiB, as :func:`all_needs` gives them.
    """
    limit = card_gib()
    b.build()

    def case(wanted: Case) -> dict[str, Any] | None:
        if limit is not None and needs[wanted.name] > limit:
            b.skip(wanted.name, f"it needs {needs[wanted.name]:.1f} GiB, the card has {limit:.1f}")
            return None
        return b.case(wanted.name, lambda: ours(b, wanted))

    first, rest = cases(b)
    middle = b.positions[1]
    rows = {c: case(c) for c in first}
    main = rows[first[0]]
    shares = [r["mfu"] for r in rows.values() if r and r["mfu"] is not None]
    figures: dict[str, float | None] = {"mfu_stage4_6k": max(shares, default=None)}
    figures["mfu_stage4_6k_checkpointing"] = main["mfu"] if main else None
    utterances = {
        pad: b.case(f"utterances, {middle}, {'padded' if pad else 'packed'}", lambda pad=pad: padded(b, middle, pad))
        for pad in (False, True)
    }
    figures["packed_over_padded"] = _ratio(utterances[False], utterances[True])
    off = b.case(f"stage 4, {middle}, logits everywhere", lambda: whole_logits(b, middle))
    figures["chunked_loss_speedup"] = _ratio(main, off)
    figures["chunked_loss_saves_gib"] = off["peak_gib"] - main["peak_gib"] if main and off else None
    beside = b.case(f"stage 4 beside plain text, {middle}", lambda: beside_plain_text(b, middle))
    figures["ours_over_plain_text"] = beside["over_plain"] if beside else None
    for wanted in rest:
        case(wanted)
    engine = b.case(f"stage 4, {middle}, checkpointing all, DeepSpeed ZeRO-3", lambda: deepspeed_step(b, middle))
    figures["deepspeed_over_bare"] = _ratio(engine, main)
    return figures


def cases(b: Bench) -> tuple[list[Case], list[Case]]:
    """The model's steps: those that decide about checkpointing, and the others."""
    short, middle, long = b.positions
    first = [Case(4, middle, name) for name in NAMES]
    first += [Case(4, middle, "encoder alone", 0.0), Case(4, middle, "none", 0.0)]
    rest = [
        Case(stage, size) for stage in (1, 2, 3, 4) for size in (short, middle, long) if (stage, size) != (4, middle)
    ]
    rest += [Case(stage, short, "none") for stage in (1, 2, 3, 4)]
    return first, rest + [Case(stage, middle, "none") for stage in (2, 3)]


def all_needs(small: bool) -> dict[str, float]:
    """Name of every case → GiB that it needs, on a model without content."""
    b, needs = Bench(small, "meta", None, 0.0, 0), Needs(small)
    return {c.name: needs.gib(c, b.samples(c.positions)) for group in cases(b) for c in group}


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
    parser.add_argument("--needs", type=Path, help="JSON of case → GiB; default: estimated here")
    parser.add_argument(
        "--out", type=Path, help="folder for gpu_step.json and, row by row as they come, gpu_step.jsonl"
    )
    args = parser.parse_args()
    use_expandable_segments()
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
    needs = (json.loads(args.needs.read_text()) if args.needs else {}) or (all_needs(args.small) if on_gpu else {})
    bench = Bench(args.small, device, dtype, args.seconds, args.repeats)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        bench.file = args.out / "gpu_step.jsonl"
        bench.file.unlink(missing_ok=True)
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    print(f"{name}, torch {torch.__version__}, packed attention by {choose(device, dtype)}")
    print(HEAD, flush=True)
    figures = run(bench, needs)
    failed = [r["case"] for r in bench.rows if "error" in r]
    if failed:
        print(f"{len(failed)} of {len(bench.rows)} cases have no figures: {'; '.join(failed)}")
    targets = {} if args.small else TARGETS
    met = all((figures.get(n) or 0) >= least for n, least in targets.items())
    rounded = {n: round(v, 4) if v is not None else None for n, v in figures.items()}
    if args.out:
        where = {"device": name, "torch": torch.__version__, "seconds": time.perf_counter() - bench.began}
        (args.out / "gpu_step.json").write_text(json.dumps({**where, "rows": bench.rows, "figures": rounded}, indent=1))
    print(json.dumps({"name": "gpu_step", "figures": rounded, "targets": targets, "met": met}))
    return int(args.check and (not met or bool(failed)))


if __name__ == "__main__":
    sys.exit(main())
