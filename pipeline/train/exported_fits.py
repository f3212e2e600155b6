"""Does an exported folder, or a PEFT adapter, fit a recipe's model? Lists the settings that differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.model.tensor_files import TensorFiles
from pipeline.recipe.schema import ModelConfig, Recipe
from pipeline.stages import stage_of
from shards.errors import ModelError
from shards.weights.hubs import resolve_checkpoint

PROJECTOR = ("layers", "heads", "ffn", "stride")
LORA = ("r", "alpha", "targets")
LLM = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
WEIGHTS = "adapter_model.safetensors"
PREFIX, INNER = "base_model.model.", ".lora_"


def check_model(recipe: Recipe, folder: Path, config: Mapping[str, Any], stated: Mapping[str, Any] | None) -> None:
    """Check the recipe's model against an exported folder's configuration, LLM and tokenizer.

    Args:
        stated: its ``training.json``, if it has one.

    Raises:
        ModelError: lists the settings that differ; or the LLM or tokenizer is another one.
    """
    differ = [*_settings(recipe, config), *_encoder(recipe.model, config)]
    if differ:
        raise ModelError(
            f"{folder} was trained with other settings than the recipe has: {'; '.join(differ)}. Set them as the "
            "exported model has them, or start from another one"
        )
    _check_llm(recipe.model, folder, config, stated)


def _settings(recipe: Recipe, config: Mapping[str, Any]) -> Iterator[str]:
    m, lora = recipe.model, config.get("lora") or {}
    pairs: list[tuple[str, Any, Any]] = [("model.speaker_dim", m.speaker_dim, config.get("speaker_dim"))]
    pairs += [("model.extractor", m.extractor, config.get("extractor"))]
    pairs += [(f"model.projector.{n}", getattr(m.projector, n), config.get("projector", {}).get(n)) for n in PROJECTOR]
    if lora:  # merged: a new one of any size
        pairs += [(f"model.lora.{n}", getattr(m.lora, n), lora.get(n)) for n in LORA]
    if stage_of(recipe.stage).tasks and (dialogue := config.get("dialogue")):
        pairs += [("data.dialogue.numbered", recipe.data.dialogue.numbered, dialogue.get("numbered"))]
    return (f"{name} is {ours!r}, exported: {theirs!r}" for name, ours, theirs in pairs if not _equal(ours, theirs))


def _equal(ours: Any, theirs: Any) -> bool:
    return sorted(ours) == sorted(theirs or ()) if isinstance(ours, list) else bool(ours == theirs)


def _encoder(cfg: ModelConfig, config: Mapping[str, Any]) -> Iterator[str]:
    """Compare the encoder's class, sizes and features; dropout is free."""
    from pipeline.model.build import encoder_shape
    from pipeline.model.encoder_interface import find_encoder

    shape, free = encoder_shape(cfg), find_encoder(cfg.encoder.type).DROPOUTS
    where = "model.encoder" + (f" ({cfg.encoder.checkpoint})" if cfg.encoder.checkpoint else "")
    if shape.class_name != config.get("encoder_class"):
        yield f"{where} is {shape.class_name}, exported: {config.get('encoder_class')}"
        return
    theirs = config.get("encoder_conf") or {}
    for name in sorted((shape.encoder_conf.keys() | theirs.keys()) - set(free)):
        if shape.encoder_conf.get(name) != theirs.get(name):
            yield f"{where}: {name} is {shape.encoder_conf.get(name)!r}, exported: {theirs.get(name)!r}"
    features = (shape.frontend_conf, shape.shift, shape.scale)
    if features != tuple(config.get(name) for name in ("frontend_conf", "feature_shift", "feature_scale")):
        yield f"{where}: its features (frontend_conf, mean and variance) are others than the exported ones"


def _check_llm(cfg: ModelConfig, folder: Path, config: Mapping[str, Any], stated: Mapping[str, Any] | None) -> None:
    """Check that LoRA, projectors and tokens mean the same to the recipe's LLM."""
    from pipeline.model.exported import llm_config, llm_tensors, tokenizer_of
    from pipeline.model.own_weights import base_hashes

    ours = resolve_checkpoint(cfg.llm.checkpoint, cfg.llm.hub)
    if ours.exists() and ours.samefile(folder):
        llm_tensors(folder).check()
        return
    itself = f"set model.llm.checkpoint to {folder} itself"
    if not config.get("lora"):
        raise ModelError(f"{folder} has LoRA merged into its LLM, which is no more {cfg.llm.checkpoint}: {itself}")
    sizes, theirs = llm_config(ours).to_dict(), config.get("llm") or {}
    if differ := [
        f"{n} is {sizes.get(n)!r}, exported: {theirs.get(n)!r}" for n in LLM if sizes.get(n) != theirs.get(n)
    ]:
        raise ModelError(f"model.llm.checkpoint {cfg.llm.checkpoint} is not the LLM of {folder}: {'; '.join(differ)}")
    if tokenizer_of(ours).hash != tokenizer_of(folder).hash:
        raise ModelError(
            f"the vocabulary of model.llm.checkpoint {cfg.llm.checkpoint} is not that of {folder}: {itself}"
        )
    if stated is None:
        raise ModelError(f"{folder} does not say which LLM its weights belong to: {itself}")
    if base_hashes(ours)["llm"] != stated["bases"].get("llm"):
        raise ModelError(
            f"{folder} was trained with another LLM than model.llm.checkpoint {cfg.llm.checkpoint}, which has other "
            f"weights: {itself}, or to the one of that run"
        )


# ------------------------------------------------------------------------------------------------------------ adapter


def check_adapter(recipe: Recipe, folder: Path) -> None:
    """Check the recipe's LoRA against a PEFT adapter.

    Raises:
        ModelError: lists the settings that differ; or it is not LoRA, or damaged.
    """
    path = folder / "adapter_config.json"
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        kind, targets = theirs["peft_type"], theirs["target_modules"]
    except (ValueError, KeyError, TypeError) as e:
        raise ModelError(f"{path} is damaged ({e}): write the adapter again") from e
    if kind != "LORA" or not isinstance(targets, list):
        raise ModelError(f"{folder} is an adapter of type {kind} on {targets!r}: init_from takes LoRA on named layers")
    lora = recipe.model.lora
    pairs = (("r", lora.r, theirs.get("r")), ("alpha", lora.alpha, theirs.get("lora_alpha")))
    differ = [f"model.lora.{n} is {ours}, the adapter's {found}" for n, ours, found in pairs if ours != found]
    if sorted(lora.targets) != sorted(targets):
        differ.append(f"model.lora.targets is {lora.targets}, the adapter's {sorted(targets)}")
    if differ:
        raise ModelError(f"{folder} does not fit the recipe: {'; '.join(differ)}. Set them as the adapter has them")
    adapter_tensors(folder).check()


def adapter_tensors(folder: Path) -> TensorFiles:
    """LoRA's tensors of a PEFT adapter, under the model's names.

    Raises:
        ModelError: its file is missing or damaged.
    """
    return TensorFiles.of_file(folder / WEIGHTS).renamed(_model_name)


def _model_name(name: str) -> str:
    head, _, matrix = name.removeprefix(PREFIX).rpartition(".")
    return f"llm.{head}.default.{matrix}"
