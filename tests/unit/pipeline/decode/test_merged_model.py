"""The two halves of a model: LLM inputs as the whole model makes them, and an LLM that answers as it does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.decode.merged_model import input_model, llm_folder, open_merged
from pipeline.export.folder import export
from pipeline.model.build import load_finished_run
from pipeline.prompts import Mode
from shards.errors import CheckpointError, ConfigError, ModelError
from tests.support.finished_runs import make_finished_run
from tests.support.packed import example, pack
from tests.support.tiny import make_base, model_config

EXAMPLES = (
    example(Mode.MATCH, ("Mike", "Lucy"), "Mike: hi\nLucy: fine", 12000, seed=1),
    example(Mode.NO, (), "spk0: 你好", 7300, seed=2),
)
EMBED = ("waveforms", "waveform_lengths", "input_ids", "audio_index", "speaker_vectors", "speaker_index")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run``, whose LLM has LoRA that is not zero, ``merged`` and ``plain``, its exports."""
    folder = tmp_path_factory.mktemp("models")
    run = make_finished_run(folder / "run", model_config(make_base(folder / "base")))
    export(run, folder / "merged", merge=True)
    export(run, folder / "plain")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Inputs, embeddings and logits of the run's model in one piece."""
    model, tokenizer, _ = load_finished_run(folder / "run")
    inputs = {name: pack(EXAMPLES[:1], tokenizer)[name] for name in EMBED}
    with torch.no_grad():
        embeds = model.embed(**inputs)
        return inputs, embeds, model.llm(inputs_embeds=embeds[None], use_cache=False).logits


@pytest.mark.parametrize("name", ["run", "merged"])
def test_halves_compute_what_the_whole_does(folder: Path, whole: Any, tmp_path: Path, name: str):
    inputs, embeds, logits = whole
    merged = open_merged(folder / name, torch.float32)
    front = input_model(merged, "cpu", torch.float32)
    assert sum(p.numel() for n, p in front.named_parameters() if ".layers." in n and n.startswith("llm.")) == 0
    plain = llm_folder(merged, tmp_path)
    llm = AutoModelForCausalLM.from_pretrained(str(plain))
    assert type(llm).__name__ == "Qwen2ForCausalLM"
    with torch.no_grad():
        found = front.embed(**inputs)
        assert torch.equal(found, embeds)
        assert torch.allclose(llm(inputs_embeds=found[None], use_cache=False).logits, logits, atol=1e-4)
    assert (merged.config.extractor, merged.config.registration) == ("random", False)
    assert merged.tokenizer.hash == open_merged(folder / "run", torch.float32).tokenizer.hash


def test_the_folder_is_written_once(folder: Path, tmp_path: Path):
    merged = open_merged(folder / "run", torch.float32)
    first = llm_folder(merged, tmp_path)
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert llm_folder(open_merged(folder / "run", torch.float32), tmp_path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    assert [p.name for p in first.parent.iterdir()] == [first.name]
    other = llm_folder(open_merged(folder / "run", torch.bfloat16), tmp_path)
    assert other != first
    assert {t.dtype for t in load_file(other / "model.safetensors").values()} == {torch.bfloat16}


def test_other_weights_are_another_folder(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "merged", tmp_path / "copy")
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    weights["llm.lm_head.weight"][0, 0] += 1
    save_file(weights, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    first, second = (open_merged(p, torch.float32) for p in (folder / "merged", tmp_path / "copy"))
    assert first.identity != second.identity


def test_lora_beside_the_llm_is_refused(folder: Path):
    with pytest.raises(ModelError, match="export it with --merge"):
        open_merged(folder / "plain", torch.float32)


def test_folders_that_hold_no_model_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="neither a finished run"):
        open_merged(tmp_path, torch.float32)
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("done"))
    with pytest.raises(CheckpointError):
        open_merged(tmp_path / "run", torch.float32)
    with pytest.raises(ModelError, match="does not hold a SpeakerLM"):
        open_merged(folder / "base" / "llm", torch.float32)


def test_a_missing_tensor_is_named(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "merged", tmp_path / "copy")
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    del weights["speaker_projector.weight"]
    save_file(weights, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing speaker_projector\.weight"):
        input_model(open_merged(tmp_path / "copy", torch.float32), "cpu", torch.float32)


def test_a_cache_that_cannot_be_written_is_named(folder: Path):
    with pytest.raises(ConfigError, match=r"/proc/nowhere/merged-llm/.*SPEAKERLM_CACHE"):
        llm_folder(open_merged(folder / "run", torch.float32), Path("/proc/nowhere"))
