"""Public checkpoints in, own weights out and in again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from pipeline.model.build import build_model, load_finished_run
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.model.own_weights import WEIGHTS, load_own_weights, own_names, own_state_dict, save_own_weights
from pipeline.recipe.load import save_recipe
from pipeline.recipe.schema import DataConfig, DatasetConfig, LlmConfig, Recipe
from pipeline.stages import MODULES, module_of
from shards.errors import ModelError
from tests.support.tiny import TinyBase, make_base, make_llm, model_config, tokenizer_size


def perturbed(model: SpeakerLMForConditionalGeneration) -> SpeakerLMForConditionalGeneration:
    for name, parameter in model.named_parameters():
        if module_of(name) != "llm":
            parameter.data.add_(0.01)
    return model


def test_the_checkpoints_weights_arrive_and_lora_changes_nothing(base: TinyBase) -> None:
    from transformers import AutoModelForCausalLM

    model = build_model(model_config(base))
    plain = AutoModelForCausalLM.from_pretrained(str(base.llm))
    ids = torch.arange(30)[None]
    assert torch.equal(model.llm(input_ids=ids).logits, plain(input_ids=ids).logits)
    state = torch.load(base.encoder / "model.pt")
    for name, tensor in model.encoder.backbone.state_dict().items():
        assert torch.equal(tensor, state[f"encoder.{name}"]), name
    assert all(not p.any() for n, p in model.named_parameters() if ".lora_B." in n)


def test_parameters_belong_to_the_modules_of_the_stages(base: TinyBase) -> None:
    model = build_model(model_config(base))
    found = {module_of(n) for n, _ in model.named_parameters()}
    assert found == {*MODULES, "llm"}
    assert {module_of(n) for n in own_names(model)} == set(MODULES)
    llm = sum(p.numel() for n, p in model.named_parameters() if module_of(n) == "llm")
    assert llm == sum(p.numel() for p in make_plain(base).parameters())


def make_plain(base: TinyBase) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(base.llm))


def test_new_weights_are_a_function_of_the_seed(base: TinyBase) -> None:
    torch.manual_seed(123)
    one = own_state_dict(build_model(model_config(base), seed=1))
    torch.manual_seed(456)
    same = own_state_dict(build_model(model_config(base), seed=1))
    other = own_state_dict(build_model(model_config(base), seed=2))
    assert all(torch.equal(one[n], same[n]) for n in one)
    changed = {module_of(n) for n in one if not torch.equal(one[n], other[n])}
    assert changed == {"audio_projector", "speaker_projector", "lora"}


def test_own_weights_round_trip(base: TinyBase, tmp_path: Path) -> None:
    model = perturbed(build_model(model_config(base)))
    save_own_weights(tmp_path / WEIGHTS, own_state_dict(model), model.bases)
    other = build_model(model_config(base), seed=7)
    load_own_weights(other, tmp_path)
    expected = model.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in other.state_dict().items())


def test_weights_of_another_llm_or_model_are_refused(base: TinyBase, tmp_path: Path) -> None:
    model = build_model(model_config(base))
    save_own_weights(tmp_path / WEIGHTS, own_state_dict(model), model.bases)
    other = make_base(tmp_path / "other", seed=9)
    with pytest.raises(ModelError, match="another llm"):
        load_own_weights(build_model(model_config(other)), tmp_path)
    cfg = model_config(base)
    cfg.lora.targets = ["q_proj"]
    with pytest.raises(ModelError, match=r"unexpected llm\.model\.layers\.0\.mlp"):
        load_own_weights(build_model(cfg), tmp_path)
    cfg = model_config(base)
    cfg.lora.r = 8
    with pytest.raises(ModelError, match=r"lora_A.*expected \(8, 64\)"):
        load_own_weights(build_model(cfg), tmp_path)


def test_a_damaged_or_missing_weights_file_is_named(base: TinyBase, tmp_path: Path) -> None:
    model = build_model(model_config(base))
    with pytest.raises(ModelError, match="no such file"):
        load_own_weights(model, tmp_path)
    save_own_weights(tmp_path / WEIGHTS, own_state_dict(model), model.bases)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="damaged"):
        load_own_weights(model, tmp_path)


def test_a_finished_run_loads_without_deepspeed(base: TinyBase, tmp_path: Path) -> None:
    model = perturbed(build_model(model_config(base)))
    data = DataConfig(train=[DatasetConfig(path="somewhere")])
    save_recipe(Recipe("tiny", 1, str(tmp_path), model=model_config(base), data=data), tmp_path / "config.yaml")
    save_own_weights(tmp_path / WEIGHTS, own_state_dict(model), model.bases)
    loaded, tokenizer, recipe = load_finished_run(tmp_path)
    assert not loaded.training
    assert recipe.name == "tiny"
    assert tokenizer.hash == model.bases["tokenizer"]
    expected = own_state_dict(model)
    assert all(torch.equal(t, expected[n]) for n, t in own_state_dict(loaded).items())


def test_an_llm_in_several_files_and_one_of_them_missing(base: TinyBase, tmp_path: Path) -> None:
    sharded = make_base(tmp_path, max_shard_size="200KB")
    files = sorted(sharded.llm.glob("*.safetensors"))
    assert len(files) >= 3
    whole, parts = make_plain(base).state_dict(), build_model(model_config(sharded)).llm.state_dict()
    assert all(torch.equal(parts[n.replace(".base_layer", "")], t) for n, t in whole.items() if n in parts)
    files[1].unlink()
    with pytest.raises(ModelError, match=str(sharded.llm)):
        build_model(model_config(sharded))


def test_an_llm_whose_weights_do_not_fit_is_refused(base: TinyBase, tmp_path: Path) -> None:
    llm = make_llm(tmp_path, tokenizer_size(base.llm))
    config = json.loads((llm / "config.json").read_text())
    config["num_hidden_layers"] = 3
    config.pop("layer_types", None)
    (llm / "config.json").write_text(json.dumps(config))
    cfg = dataclasses.replace(model_config(base), llm=LlmConfig(checkpoint=str(llm)))
    with pytest.raises(ModelError, match=r"missing_keys model\.layers\.2\."):
        build_model(cfg)


@pytest.mark.parametrize("checkpoint", ["/nowhere/at/all", "./nowhere", "plainword"])
def test_a_folder_that_does_not_exist_is_named_without_asking_a_hub(base: TinyBase, checkpoint: str) -> None:
    cfg = dataclasses.replace(model_config(base), llm=LlmConfig(checkpoint=checkpoint))
    with pytest.raises(ModelError, match=f"{checkpoint}: no such folder"):
        build_model(cfg)


def test_lora_targets_that_the_llm_has_not_are_refused(base: TinyBase) -> None:
    cfg = model_config(base)
    cfg.lora.targets = ["c_attn"]
    with pytest.raises(ModelError, match="c_attn"):
        build_model(cfg)


def test_hugging_face_round_trip(base: TinyBase, tmp_path: Path) -> None:
    model = perturbed(build_model(model_config(base)))
    model.save_pretrained(str(tmp_path))
    again = SpeakerLMForConditionalGeneration.from_pretrained(str(tmp_path))
    expected = model.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in again.state_dict().items())
    assert again.config.projector == model.config.projector
    wave = torch.randn(1, 8000) * 0.1
    lengths = torch.tensor([8000])
    model.eval()
    assert torch.equal(again.encode_audio(wave, lengths), model.encode_audio(wave, lengths))
