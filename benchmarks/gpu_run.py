"""A real run on one GPU: launch/train.py on the bundle's data, stopped by SIGTERM, resumed, and its next stage.

The parts have random weights, in the shapes of the small recipe: what is asked is whether training, saving and resuming
work on CUDA and NCCL, and what a step takes, not what is learned.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEPS, STOP_AT, SAVE_EVERY = 40, 12, 20
START_S, STEP_S = 240, 10  # most seconds until the first step, and of a step
SETS = ("asr", "test-asr", "simulated", "test-simulated")  # of stages 1 and 2


def real_run(out: Path, data: Path, small: bool) -> Iterator[dict[str, Any]]:
    """Yield how each start ended, and figures of each stage's steps.

    Args:
        out: folder for models and runs.
        data: packed datasets of SETS.
    """
    import torch

    missing = [name for name in SETS if not (data / name / "dataset.json").is_file()]
    if missing:
        yield {"right": False, "error": f"{data} has no {', '.join(missing)}: make it with benchmarks/gpu_bundle.py"}
        return
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "data").exists():
        (out / "data").symlink_to(data.resolve())
    _parts(out / "models", small)
    command = _command(out, small, torch.cuda.is_available())
    steps = 6 if small else STEPS
    stop_at = 2 if small else STOP_AT
    code, seconds = _start(command, out / "first.log", stop_at, out)
    done = _rows(out, 1)
    yield {"start": "until SIGTERM", "exit code": code, "right": code == 85, "seconds": seconds, "steps": len(done)}
    code, seconds = _start(command, out / "second.log", None, out)
    yield {"start": "the same command again", "exit code": code, "right": code == 0, "seconds": seconds}
    for stage in (1, 2):
        rows = _rows(out, stage)
        numbers = [r["step"] for r in rows]
        row: dict[str, Any] = {"stage": stage, "right": numbers == list(range(1, steps + 1)), "steps": len(rows)}
        if rows:
            row |= {"first loss": rows[0]["loss"], "last loss": rows[-1]["loss"]}
            names = ("seconds", "wait_seconds", "peak_gib", "mfu", "positions")
            row |= {name: statistics.median([r[name] or 0.0 for r in rows]) for name in names}
        yield row


def _parts(folder: Path, small: bool) -> None:
    """Whisper-base and SmolLM2-135M by shape; tiny ones with ``small``."""
    import torch

    from pipeline.model.encoders.whisper import whisper_conf
    from pipeline.model.whisper_encoder import WhisperSpeechEncoder
    from pipeline.standins.encoder_folders import write_whisper_folder
    from pipeline.standins.random_models import make_llm, make_tokenizer

    if (folder / "smollm2-135m" / "config.json").exists():
        return
    conf = whisper_conf(64, 2, 4) if small else whisper_conf(512, 6, 8)
    torch.manual_seed(0)
    write_whisper_folder(folder / "whisper-base", WhisperSpeechEncoder(conf).state_dict(), conf)
    llm = folder / "smollm2-135m"
    make_tokenizer(llm, ["one two three four five", "Mike: hello, how are you?"], 600)
    if small:
        make_llm(llm, 603)
    else:
        make_llm(llm, 603, hidden=576, layers=30, heads=9, kv_heads=3, ffn=1536)


def _command(out: Path, small: bool, on_gpu: bool) -> list[str]:
    deepspeed = "zero2.json" if on_gpu else "zero3_cpu.json"
    steps, save = (6, 2) if small else (STEPS, SAVE_EVERY)
    settings = [
        f"root={out}", f"deepspeed={ROOT / 'ds_configs' / deepspeed}", f"trainer.max_steps={steps}",
        f"trainer.save_every={save}", f"trainer.validate_every={steps}", "trainer.validation_batches=1",
        "trainer.log_every=1", "optimizer.warmup_steps=1", "data.window_shards=1", "trainer.stop_margin_seconds=1",
    ]  # fmt: skip
    if small:
        settings += [
            "data.max_positions=2000",
            "data.max_frames=2000",
            "data.workers=1",
            "data.micro_batches_per_step=1",
        ]
        settings += ["model.projector.heads=4", "model.projector.ffn=64"]
    recipes = ROOT / "launch" / "recipes" / "small"
    return [sys.executable, str(ROOT / "launch" / "train.py"), str(recipes), "--stages", "1-2", *settings]


def _start(command: list[str], log: Path, stop_at: int | None, out: Path) -> tuple[int | None, float]:
    """Run to the end, or send SIGTERM after a step of stage 1; return exit code (None: hung) and seconds."""
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": _path()}
        )
        try:
            limit = began + START_S + STEP_S * (stop_at or 2 * STEPS)
            while stop_at is not None and process.poll() is None and len(_rows(out, 1)) < stop_at:
                if time.monotonic() > limit:
                    break
                time.sleep(0.05)
            if stop_at is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
            code: int | None = process.wait(max(30.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait()
    if code not in (0, 85):
        print("\n".join(log.read_text(errors="replace").splitlines()[-30:]), file=sys.stderr)
    return code, round(time.monotonic() - began, 1)


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _rows(out: Path, stage: int) -> list[dict[str, Any]]:
    """Lines of a stage's train.jsonl; its last one may be half written."""
    log = out / "exp" / f"stage{stage}" / "train.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
