"""A run's own weights: read, written, compared with the base model that they belong to.

"Own" is everything but the LLM's base weights: encoder, projectors, LoRA. A run's ``weights/model.safetensors`` holds
them in fp32, with the hashes of the base that they belong to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model.exported import tokenizer_of
from pipeline.stages import module_of
from shards.errors import ModelError

WEIGHTS = Path("weights") / "model.safetensors"
BASES = "bases"  # key of the safetensors metadata
# Weights that start at zero, so that a model of a run without them computes what the run did.
ZERO_AT_START = frozenset({"audio_projector.time.weight"})


def own_names(model: nn.Module) -> list[str]:
    """Names of the model's own parameters, in order."""
    return [name for name, _ in model.named_parameters() if module_of(name) != "llm"]


def own_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The own weights in fp32 on the host; parameters must be whole, not partitioned."""
    own = {n: p for n, p in model.named_parameters() if module_of(n) != "llm"}
    return {n: p.detach().to("cpu", torch.float32, copy=True) for n, p in own.items()}


def save_own_weights(path: Path, tensors: Mapping[str, Tensor], bases: Mapping[str, str]) -> None:
    """Write own weights with the hashes of their base (``model.bases``)."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(flat, str(path), metadata={"format": "pt", BASES: json.dumps(dict(bases), sort_keys=True)})


def load_own_weights(model: Any, folder: Path, may_lack: frozenset[str] = frozenset()) -> None:
    """Take the own weights of a finished run. Before ``deepspeed.initialize``, when they are still whole on every rank.

    Args:
        may_lack: names that the run may not have; the model keeps its own there.

    Raises:
        ModelError: no such file, other names or shapes, or weights trained on another LLM or tokenizer.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    own = {n: p for n, p in model.named_parameters() if module_of(n) != "llm"}
    try:
        with safe_open(str(path), framework="pt") as file:
            lacking = may_lack - set(file.keys())
            own = {n: p for n, p in own.items() if n not in lacking}
            check_own_weights(path, file, own, model.bases)
            for name, parameter in own.items():
                tensor = file.get_tensor(name)
                if tensor.shape != parameter.shape:
                    raise ModelError(f"{path}: {name} is {tuple(tensor.shape)}, expected {tuple(parameter.shape)}")
                parameter.data.copy_(tensor)
    except FileNotFoundError as e:
        raise ModelError(f"{path}: no such file; a finished run's folder holds it") from e
    except SafetensorError as e:
        raise ModelError(f"{path} is damaged: {e}") from e


def check_own_weights(path: Path, file: Any, own: Iterable[str], bases: Mapping[str, str]) -> None:
    """Raise ModelError unless an open file of own weights has these names and belongs to these bases."""
    _check_bases(path, (file.metadata() or {}).get(BASES), bases)
    _check_names(path, set(file.keys()), own)


def _check_bases(path: Path, recorded: str | None, bases: Mapping[str, str]) -> None:
    if recorded is None:
        raise ModelError(f"{path}: does not say which LLM its weights belong to")
    other = [name for name, value in json.loads(recorded).items() if bases.get(name, value) != value]
    if other:
        raise ModelError(
            f"{path}: trained with another {' and '.join(other)}; set model.llm.checkpoint to the one of that run"
        )


def _check_names(path: Path, found: set[str], own: Iterable[str]) -> None:
    wanted = set(own)
    problems = [f"missing {n}" for n in sorted(wanted - found)] + [f"unexpected {n}" for n in sorted(found - wanted)]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ModelError(f"{path} is of another model: {'; '.join(problems[:10])}{more}")


def base_hashes(llm_folder: Path, tokenizer: str | None = None) -> dict[str, str]:
    """Return hashes that identify the LLM and tokenizer that own weights were trained on.

    Args:
        tokenizer: its hash; None: that of the folder's tokenizer with SpeakerLM's prompts.
    """
    return {"llm": fingerprint_weights(llm_folder), "tokenizer": tokenizer or tokenizer_of(llm_folder).hash}


def fingerprint_weights(folder: Path) -> str:
    """Hash that tells checkpoints apart without reading them whole.

    Names and sizes of the weight files and 1 MiB from the start, middle and end of each: a 15 GB model takes
    milliseconds, and a file that was trained further differs in every part of it.
    """
    digest = hashlib.sha256()
    files = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin")), *sorted(folder.glob("*.pt"))]
    if not files:
        raise ModelError(f"{folder}: no weights (*.safetensors, *.bin, *.pt)")
    part = 1 << 20
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as f:
            for offset in (0, max(0, size // 2), max(0, size - part)):
                f.seek(offset)
                digest.update(f.read(part))
    return digest.hexdigest()
