"""Load models from disk: finished runs and exported folders, and their speaker extractor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.decode.generate import load_for_decoding
from shards.errors import ConfigError, ModelError
from shards.voices.extractors import Extractor, extractor_names, load_extractor


def load_model(folder: Path, device: str) -> tuple[Any, Any, str, bool]:
    """Load a model on a device; return it, its tokenizer, the id of its extractor, and whether it writes names.

    Raises:
        ModelError, ConfigError, CheckpointError: neither a finished run nor an exported model.
    """
    if (folder / "config.yaml").exists():
        from pipeline.checkpoint.final_weights import read_done
        from pipeline.stages import STAGES

        read_done(folder)
        network, tokenizer, recipe = load_for_decoding(folder, device)
        return network, tokenizer, recipe.model.extractor, STAGES[recipe.stage].registration
    if not (folder / "config.json").exists():
        raise ConfigError(f"{folder} is neither a finished run (config.yaml, done) nor an exported model (config.json)")
    from pipeline.prompts import PromptTokenizer

    network = _open_exported(folder, device)
    return network, PromptTokenizer.from_folder(folder), network.config.extractor, network.config.registration


def _open_exported(folder: Path, device: str) -> Any:
    """Load the model of an exported folder, in eval mode.

    Raises:
        ModelError: it is of another type, damaged, or incomplete.
    """
    import torch

    from pipeline.model.auto import register_auto_classes
    from pipeline.model.causal_lm import bars_on_terminals_only
    from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration

    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError) as e:
        raise ModelError(f"{folder / 'config.json'} is damaged ({e}): export the run again") from e
    if kind != SpeakerLMForConditionalGeneration.config_class.model_type:
        raise ModelError(f"{folder} holds a model of type {kind!r}, not SpeakerLM: use a folder of speakerlm-export")
    bars_on_terminals_only()
    register_auto_classes()  # or transformers asks whether the folder's own code may run
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    try:
        network = SpeakerLMForConditionalGeneration.from_pretrained(str(folder), dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:  # a file is missing, truncated, or of other sizes
        reason = " ".join(str(e).split())[:300]
        raise ModelError(f"{folder} cannot be loaded ({reason}): export the run again") from e
    return network.to(device).eval()


def extractor_for(identity: str, device: str, cache: Path | None = None, name: str | None = None) -> Extractor:
    """Load the extractor whose vectors a model was trained with.

    Args:
        identity: its id in the model's configuration.
        name: ``NAME@SOURCE`` of :func:`load_extractor`; None: by the id.

    Raises:
        ConfigError: the id is unknown, or the named extractor has another id.
    """
    if name is None:
        fitting = [
            n for n in sorted(extractor_names(), key=len) if identity == n or identity.startswith((f"{n}_", f"{n}-"))
        ]
        if not fitting:
            raise ConfigError(f"unknown speaker extractor {identity!r}; name it with --extractor NAME@SOURCE")
        name = fitting[-1]
    found = load_extractor(name, cache=cache, device=device)
    if found.id != identity:
        raise ConfigError(
            f"the model was trained with vectors of {identity}, not of {found.id} ({name}); use --extractor"
        )
    return found
