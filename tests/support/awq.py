"""A Qwen2 folder with weights as AutoAWQ stores them: 4 bits, a scale and a zero point for each group of inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GROUP, BITS, STEPS = 32, 4, 15
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # columns in the eight places of a 32-bit number


def write_awq(llm: Path, out: Path) -> Path:
    """Quantize the linear layers of a plain LLM folder, the output layer excepted."""
    shutil.copytree(llm, out)
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(out / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            stored |= {f"{name.removesuffix('weight')}{part}": t.contiguous() for part, t in _quantized(tensor).items()}
        else:
            stored[name] = tensor.half() if tensor.is_floating_point() else tensor
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq", "bits": BITS, "group_size": GROUP, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": None,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    return out


def _quantized(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """(out, in) → qweight (in, out / 8), qzeros (in / GROUP, out / 8), scales (in / GROUP, out)."""
    groups = weight.float().t().reshape(-1, GROUP, len(weight))
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    scale = ((high - low) / STEPS).clamp(min=1e-6)
    zero = (-low / scale).round().clamp(0, STEPS)
    steps = ((groups / scale[:, None]).round() + zero[:, None]).clamp(0, STEPS)
    return {"qweight": _packed(steps.reshape(-1, len(weight))), "qzeros": _packed(zero), "scales": scale.half()}


def _packed(steps: torch.Tensor) -> torch.Tensor:
    columns = steps.to(torch.int64).view(len(steps), -1, len(ORDER))
    number = sum(columns[:, :, column] << (BITS * place) for place, column in enumerate(ORDER))
    return torch.where(number >= 1 << 31, number - (1 << 32), number).to(torch.int32)
