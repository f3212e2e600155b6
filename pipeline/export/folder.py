"""A finished run as a Hugging Face folder: weights, code, configuration, tokenizer, adapter, model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.final_weights import read_done
from pipeline.checkpoint.model_tensors import adapter_tensors
from pipeline.checkpoint.run_parts import parts_of
from pipeline.checkpoint.safetensors_file import LazyTensor, write_sharded, write_tensors
from pipeline.export.carry import carry
from pipeline.export.code import write_code
from pipeline.export.model_card import model_card
from pipeline.export.thinker import check_thinker, write_thinker
from pipeline.export.training_data import hashes_of_extractors
from pipeline.model.exported import tokenizer_of, write_training
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import ModelConfig, Recipe
from pipeline.stages import STAGES, Base, check_speech
from shards.errors import ConfigError, ModelError
from shards.workers import progress

if TYPE_CHECKING:
    import torch

    from pipeline.model.configuration_speakerlm import SpeakerLMConfig


def export(
    run: Path, out: Path, merge: bool = False, dtype: str = "auto", largest: int = 4 * 10**9, scores: Path | None = None
) -> Path:
    """Write the folder; it appears whole or not at all.

    Args:
        run: a finished run: config.yaml, weights/, done.
        out: a folder that does not exist yet.
        merge: add LoRA to the LLM's weights; peft is not needed to load the result then.
        dtype: of all weights: float32, bfloat16, float16, or auto for that of the LLM's own.
        largest: bytes of a weight file.
        scores: scores.json for the model card; None takes the run's own, where it has one.

    Raises:
        ConfigError: ``out`` exists, or cannot be made.
        CheckpointError: the run has not finished, or its weights have changed since.
        ModelError: the weights do not fit, or the LLM is another one.
    """
    recipe = check_export(run, out)
    thinks = recipe.model.base != Base.SPEAKERLM
    if thinks:
        check_thinker(recipe, merge)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as e:
        raise ConfigError(f"{out}: {e.strerror or e}; name a folder that can be written") from e
    try:
        if thinks:
            write_thinker(partial, run, recipe, out.name, dtype, largest)
            partial.rename(out)
            return out
        reads = STAGES[recipe.stage].registration
        enrolment = carry(partial, recipe.model.extractor if reads else "", hashes_of_extractors(recipe))
        card = model_card(run, recipe, out.name, merge, scores, enrolment)
        _write(partial, run, recipe, merge, dtype, largest, enrolment)
        (partial / "README.md").write_text(card, encoding="utf-8")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def check_export(run: Path, out: Path) -> Recipe:
    """Check what costs nothing, and return the run's recipe.

    Raises:
        ConfigError, CheckpointError: as of :func:`export`.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already: name a folder that does not")
    read_done(run)
    recipe = load_recipe(run / "config.yaml")
    check_speech(recipe.stage, str(run))
    return recipe


def _write(
    folder: Path, run: Path, recipe: Recipe, merge: bool, dtype: str, largest: int, enrolment: dict[str, Any]
) -> None:
    parts = parts_of(run, recipe)
    config, bones = parts.config, parts.bones
    chosen = _dtype(dtype, parts.llm_config)
    _write_all(write_sharded(folder, tensors := parts.tensors(chosen, merge), largest), tensors)
    if not merge:
        _write_adapter(folder / "adapter", adapter_tensors(bones, parts.own), recipe.model)
    else:
        config.lora = {}
    write_training(folder, read_done(run), merge)
    write_code(folder)
    _write_configs(folder, config, parts.llm_folder, chosen, enrolment)


def _dtype(name: str, of_llm: Any) -> torch.dtype:
    import torch

    chosen = getattr(of_llm, "dtype", None) or "float32" if name == "auto" else name
    chosen = getattr(torch, chosen, None) if isinstance(chosen, str) else chosen
    if not isinstance(chosen, torch.dtype):
        raise ConfigError(f"dtype {name} is not float32, bfloat16, float16 or auto")
    return chosen


def _write_all(written: Iterator[LazyTensor], tensors: Sequence[LazyTensor]) -> None:
    """Run a writer to its end and show its progress."""
    total = sum(t.bytes for t in tensors)
    with progress(total=total, unit="B", unit_scale=True, desc="weights") as bar:
        for t in written:
            bar.update(t.bytes)


def _write_adapter(folder: Path, tensors: Sequence[LazyTensor], cfg: ModelConfig) -> None:
    """LoRA as PEFT keeps it, for the LLM alone."""
    from dataclasses import asdict

    from pipeline.model.lora import lora_config

    config = lora_config(asdict(cfg.lora))
    config.base_model_name_or_path, config.inference_mode = cfg.llm.checkpoint, True
    folder.mkdir()
    config.save_pretrained(str(folder))
    for _ in write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"}):
        pass


def _write_configs(
    folder: Path, config: SpeakerLMConfig, llm_folder: Path, dtype: torch.dtype, enrolment: dict[str, Any]
) -> None:
    """config.json, generation_config.json, processor_config.json and the tokenizer's files."""
    from transformers import GenerationConfig

    from pipeline.model.auto import AUTO_MAP, PIPELINES, PROCESSOR
    from pipeline.model.processing_speakerlm import SpeakerLMProcessor

    tokenizer = tokenizer_of(llm_folder)
    processor = SpeakerLMProcessor(
        tokenizer, config.projector["stride"], config.speaker_dim, config.extractor, enrolment=enrolment
    )
    processor.auto_map = {"AutoProcessor": PROCESSOR}
    processor.save_pretrained(str(folder))
    config.architectures = ["SpeakerLMForConditionalGeneration"]
    config.auto_map = {name: where for name, where in AUTO_MAP.items() if where != PROCESSOR}
    config.custom_pipelines = PIPELINES
    config.dtype = dtype
    config.save_pretrained(str(folder))
    end = GenerationConfig(do_sample=False, eos_token_id=tokenizer.eos, pad_token_id=tokenizer.pad)
    end.save_pretrained(str(folder))
    if not json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auto_map"):
        raise ModelError(f"{folder / 'config.json'}: transformers dropped auto_map, so the folder cannot be loaded")
