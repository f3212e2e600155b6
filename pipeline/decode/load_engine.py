"""Load models to decode with: finished runs and exported folders, behind the engine that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.decode.engine import ENGINES, QUANTIZE, Engine
from pipeline.decode.load_run import load_for_decoding
from pipeline.model.stopping import Guards
from shards.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Loaded:
    """An engine with a model, and what its prompts may hold."""

    engine: Engine
    extractor: str  # id of what made the speaker vectors that the model knows
    registers: bool  # False for a model of stage 1, which writes words but no names


def load_engine(
    folder: Path,
    device: str,
    name: str = "transformers",
    guards: Guards | None = None,
    batch: int | None = None,
    quantize: str | None = None,
) -> Loaded:
    """Load a finished run or an exported model behind an engine.

    Args:
        device: of :func:`pipeline.decode.generate.choose_device`.
        name: of ENGINES.
        batch: most prompts that the engine answers at a time; None: all that wait.
        quantize: of QUANTIZE; None: the weights as they are.

    Raises:
        ModelError, ConfigError, CheckpointError: neither a finished run nor an exported model, an unknown engine, one
            that is not installed, or one that cannot quantize.
    """
    from pipeline.decode.transformers_engine import TransformersEngine
    from pipeline.decode.vllm_engine import VllmEngine, VllmSettings

    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}, known: {', '.join(ENGINES)}")
    check_quantize(quantize, name)
    if name == "vllm":
        settings = VllmSettings(guards=guards or Guards())
        vllm, merged = VllmEngine.load(folder, device, replace(settings, together=batch or settings.together))
        return Loaded(vllm, merged.config.extractor, merged.config.registration)
    network, tokenizer, extractor, registers = load_model(folder, device, quantize)
    return Loaded(TransformersEngine(network, tokenizer, guards, batch, quantize), extractor, registers)


def check_quantize(quantize: str | None, engine: str = "transformers") -> None:
    """Check that an engine can quantize weights.

    Raises:
        ConfigError: they cannot.
    """
    if quantize is None:
        return
    if quantize not in QUANTIZE:
        raise ConfigError(f"unknown --quantize {quantize!r}, known: {', '.join(QUANTIZE)}")
    if engine != "transformers":
        raise ConfigError(
            f"--quantize {quantize} is for the engine transformers: leave it or --engine {engine} out; vLLM takes an "
            "LLM that was quantized before, in the model's folder llm"
        )


def load_model(folder: Path, device: str, quantize: str | None = None) -> tuple[Any, Any, str, bool]:
    """Load a model on a device; return it, its tokenizer, the id of its extractor, and whether it writes names.

    Args:
        quantize: of QUANTIZE; a GPU gets the rounded weights alone.

    Raises:
        ModelError, ConfigError, CheckpointError: neither a finished run nor an exported model.
    """
    if (folder / "config.yaml").exists():
        from pipeline.checkpoint.final_weights import read_done
        from pipeline.stages import STAGES

        read_done(folder)
        network, tokenizer, recipe = load_for_decoding(folder, device, move=quantize is None)
        network = smaller(network, device, quantize)
        return network, tokenizer, recipe.model.extractor, STAGES[recipe.stage].registration
    from pipeline.prompts import PromptTokenizer

    network = smaller(_open_exported(folder, device), device, quantize)
    return network, PromptTokenizer.from_folder(folder), network.config.extractor, network.config.registration


def load_for_dialogues(folder: Path, device: str) -> tuple[Any, Any]:
    """Load a model on a device to hold dialogues with; return it and its tokenizer.

    In float32 LoRA is added to the weights: a reply is written token by token, and LoRA is 40 % of a token's time on
    a core. In bfloat16 the sum would be rounded.

    Raises:
        ModelError, ConfigError, CheckpointError: as :func:`load_model`.
    """
    import torch

    from pipeline.model.lora import merge_lora

    network, tokenizer, _, _ = load_model(folder, device)
    if next(network.llm.parameters()).dtype is torch.float32:
        merge_lora(network.llm)
    return network, tokenizer


def smaller(network: Any, device: str, quantize: str | None) -> Any:
    """Quantize a model that is in the host's memory, and move it to a device.

    Raises:
        ConfigError: it cannot be quantized there.
    """
    if quantize == "int8" and device == "cpu":
        from pipeline.model.int8 import use_int8

        return use_int8(network)
    if quantize:
        from pipeline.model.bitsandbytes_layers import use_bitsandbytes

        return use_bitsandbytes(network, quantize, device)
    return network.to(device)


def _open_exported(folder: Path, device: str) -> Any:
    """Load the model of an exported folder into the host's memory, in eval mode, with the dtype for a device.

    Raises:
        ModelError: it is of another type, damaged, or incomplete.
    """
    import torch

    from pipeline.model.auto import register_auto_classes
    from pipeline.model.causal_lm import bars_on_terminals_only
    from pipeline.model.exported import MODEL_TYPE, exported_config
    from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration

    kind = exported_config(folder)["model_type"]
    if kind != MODEL_TYPE:
        raise ModelError(f"{folder} holds a model of type {kind!r}, not SpeakerLM: use a folder of speakerlm-export")
    bars_on_terminals_only()
    register_auto_classes()  # or transformers asks whether the folder's own code may run
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    try:
        network = SpeakerLMForConditionalGeneration.from_pretrained(str(folder), dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:  # a file is missing, truncated, or of other sizes
        reason = " ".join(str(e).split())[:300]
        raise ModelError(f"{folder} cannot be loaded ({reason}): export the run again") from e
    return network.eval()
