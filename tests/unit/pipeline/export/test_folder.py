"""Exported folders: logits before = after, merged or not, other LLMs, the card, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.export.cli import main
from pipeline.export.folder import export
from pipeline.model.build import load_finished_run
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.model.own_weights import WEIGHTS
from pipeline.prompts import Mode
from pipeline.recipe.schema import LlmConfig
from shards.errors import CheckpointError, ConfigError, ModelError
from tests.support.architectures import make_causal_lm
from tests.support.datasets import make_dataset
from tests.support.finished_runs import make_finished_run, seal
from tests.support.packed import example, pack
from tests.support.tiny import TinyBase, make_base, model_config

EXAMPLES = (
    example(Mode.MATCH, ("Mike", "Lucy"), "Mike: hi\nLucy: fine", 12000, seed=1),
    example(Mode.NO, (), "spk0: 你好", 7300, seed=2),
)
EMBED = ("waveforms", "waveform_lengths", "input_ids", "audio_index", "speaker_vectors", "speaker_index")


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    """Of every position of the examples, audio and speakers in."""
    batch = pack(EXAMPLES[:1], tokenizer)
    with torch.no_grad():
        embeds = model.eval().embed(**{name: batch[name] for name in EMBED})
        return model.llm(inputs_embeds=embeds[None], use_cache=False).logits


def loss(model: Any, tokenizer: Any) -> float:
    """Of a packed micro-batch."""
    with torch.no_grad():
        return model.eval()(**pack(EXAMPLES, tokenizer)).loss.item()


@pytest.fixture(scope="module")
def before(run: Path) -> tuple[Any, Any]:
    model, tokenizer, _ = load_finished_run(run)
    return model, tokenizer


def test_logits_are_the_same_after_in_several_files(run: Path, before: tuple[Any, Any], tmp_path: Path) -> None:
    folder = export(run, tmp_path / "out", largest=300_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) >= 3
    assert all((folder / f).stat().st_size < 450_000 for f in set(index["weight_map"].values()))
    model, tokenizer = before
    again = SpeakerLMForConditionalGeneration.from_pretrained(folder)
    assert torch.equal(logits(again, tokenizer), logits(model, tokenizer))
    assert loss(again, tokenizer) == loss(model, tokenizer)


def test_merged_weights_give_the_same_logits_without_lora(run: Path, before: tuple[Any, Any], tmp_path: Path) -> None:
    folder = export(run, tmp_path / "merged", merge=True)
    assert not (folder / "adapter").exists()
    model, tokenizer = before
    merged = SpeakerLMForConditionalGeneration.from_pretrained(folder)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    expected = logits(model, tokenizer)
    assert (logits(merged, tokenizer) - expected).abs().max() < 1e-5
    layers = [m for m in model.modules() if hasattr(m, "lora_A")]
    for layer in layers:  # and LoRA does change them: without it they are others
        layer.scaling["default"] = 0.0
    without = logits(model, tokenizer)
    for layer in layers:
        layer.scaling["default"] = 2.0
    assert (without - expected).abs().max() > 1e-2


def test_the_adapter_is_a_peft_folder_for_the_base_llm(
    run: Path, base: TinyBase, before: tuple[Any, Any], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = export(run, tmp_path / "out")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base.llm)), str(folder / "adapter"))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        expected = before[0].eval().llm(input_ids=ids).logits
        assert (adapted.eval()(input_ids=ids).logits - expected).abs().max() < 1e-6
    assert adapted.peft_config["default"].base_model_name_or_path == str(base.llm)


def test_bf16_takes_half_the_bytes_and_loads_as_such(run: Path, before: tuple[Any, Any], tmp_path: Path) -> None:
    folder = export(run, tmp_path / "half", dtype="bfloat16")
    model = SpeakerLMForConditionalGeneration.from_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    wide = SpeakerLMForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    whole, tokenizer = before
    assert loss(wide, tokenizer) == pytest.approx(loss(whole, tokenizer), rel=0.02)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt_neox", "tied"])
def test_other_llms_and_tied_embeddings(tmp_path: Path, kind: str) -> None:
    base = make_base(tmp_path / "base", tied=kind == "tied")
    cfg = model_config(base)
    if kind != "tied":
        cfg = replace(cfg, llm=LlmConfig(checkpoint=str(make_causal_lm(base.llm, kind))))
        cfg.lora.targets = ["query_key_value"] if kind == "gpt_neox" else cfg.lora.targets
    run = make_finished_run(tmp_path / "run", cfg)
    model, tokenizer, _ = load_finished_run(run)
    for merge in (False, True):
        again = SpeakerLMForConditionalGeneration.from_pretrained(export(run, tmp_path / f"out-{merge}", merge))
        assert (logits(again, tokenizer) - logits(model, tokenizer)).abs().max() < 1e-5
        if kind == "tied":
            assert again.llm.lm_head.weight is again.get_input_embeddings().weight


@pytest.mark.parametrize("merge", [False, True])
def test_an_llm_without_safetensors_is_loaded_whole_and_it_says_so(
    merge: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = make_base(tmp_path / "base")
    torch.save(load_file(base.llm / "model.safetensors"), base.llm / "pytorch_model.bin")
    (base.llm / "model.safetensors").unlink()
    run = make_finished_run(tmp_path / "run", model_config(base))
    caplog.clear()
    folder = export(run, tmp_path / "out", merge)
    assert f"{base.llm} does not name its tensors as the model does: loading it whole" in caplog.text
    assert not list(folder.glob("*.bin"))
    model, tokenizer, _ = load_finished_run(run)
    again = SpeakerLMForConditionalGeneration.from_pretrained(folder)
    assert (logits(again, tokenizer) - logits(model, tokenizer)).abs().max() < 1e-5


def test_the_card_lists_stages_data_and_scores(run: Path, base: TinyBase, tmp_path: Path) -> None:
    later = make_finished_run(tmp_path / "later", model_config(base), stage=2, init_from=str(run))
    row = {"run": "tiny-run", "stage": 2, "test_set": "AliMeeting", "split": "Test", "unit": "clip", "mode": "no"}
    row |= {"n_ov": None, "cer": 21.5, "cpcer": 30.25, "sacer": None, "delta_cp": 8.75, "delta_sa": None}
    (later / "scores.json").write_text(json.dumps([{**row, "n_ref": 1000, "ci": None, "normaliser": "paper-zh 1"}]))
    card = (export(later, tmp_path / "my-model") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for expected in (
        "# my-model",
        "| 1 asr | audio_projector, encoder, lora | 1234 |",
        "| 2 align |",
        "meetings-train (2)",
    ):
        assert expected in card
    assert "30.25" in card
    assert f"- LLM: `{base.llm.name}` (a folder" in card
    assert str(tmp_path.parent) not in card, "paths of this machine"
    assert "starts from" not in card
    assert "consent" in card
    assert "--quantize int8" in card
    assert "Neither was measured on this model." in card


def test_the_card_says_what_the_data_hold(base: TinyBase, tmp_path: Path) -> None:
    """Of datasets on this machine; nothing is invented for others."""
    dataset = make_dataset(tmp_path / "data", samples=9, seconds=(1.0, 30.0))
    lengths = sorted(n / 16_000 for shard in (0, 1) for n in dataset.index(shard)["num_samples"].to_pylist())
    run = make_finished_run(tmp_path / "run", model_config(base), data=str(tmp_path / "data"))
    card = (export(run, tmp_path / "out") / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("| data | 1 |")]
    span = f"{lengths[0]:.1f}–{lengths[-1]:.1f} s"
    assert line == f"| data | 1 | synthetic | zh | {sum(lengths) / 3600:.1f} | 9 | {span}, median {lengths[4]:.1f} s |"
    assert f"16 kHz, of {span} in the last stage; longer" in card
    elsewhere = make_finished_run(tmp_path / "elsewhere", model_config(base))
    card = (export(elsewhere, tmp_path / "out2") / "README.md").read_text()
    assert "| meetings-train | 1 | not in reach when this folder was written |" in card
    assert "at 16 kHz; longer" in card
    assert "40–50" not in card


def test_wrong_runs_are_refused(run: Path, base: TinyBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export(run, tmp_path / "there")
    with pytest.raises(ConfigError, match="name a folder that can be written"):
        export(run, Path("/proc/nowhere/out"))
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "done").unlink()
    with pytest.raises(CheckpointError, match="not finished"):
        export(copy, tmp_path / "out")
    shutil.copy(run / "done", copy / "done")
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (copy / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="changed or damaged"):
        export(copy, tmp_path / "out")
    assert main([str(copy), str(tmp_path / "out")]) == 1
    assert "speakerlm-export: " in capsys.readouterr().err
    assert main([str(run), str(tmp_path / "out"), "--max-shard-size", "much"]) == 1
    assert "such as 4GB" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []  # nothing half-made is left


def test_a_missing_file_of_the_llm_and_another_llm_are_named(run: Path, base: TinyBase, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", seed=9, max_shard_size="200KB")
    run2 = make_finished_run(tmp_path / "run2", model_config(other))
    missing = sorted(other.llm.glob("*.safetensors"))[1]
    kept = missing.read_bytes()
    missing.unlink()
    with pytest.raises(ModelError, match="another llm|" + missing.name):
        export(run2, tmp_path / "out")
    missing.write_bytes(kept)
    shutil.copy(run / WEIGHTS, run2 / WEIGHTS)
    seal(run2, 1, {})
    with pytest.raises(ModelError, match="another llm"):
        export(run2, tmp_path / "out")
