"""Weights to start from: a finished run, its exported folder in every form, a PEFT adapter; what does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from pipeline.export.folder import export
from pipeline.model.build import build_model, load_finished_run
from pipeline.model.exported import TRAINING, own_tensors
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.model.own_weights import WEIGHTS, load_own_weights, own_state_dict, save_own_weights
from pipeline.ranks.launch import Ranks
from pipeline.recipe.load import save_recipe
from pipeline.recipe.schema import DataConfig, DatasetConfig, EncoderConfig, LlmConfig, Recipe
from pipeline.stages import module_of
from pipeline.train.starting_point import find_start, take_weights
from shards.errors import CheckpointError, ModelError, SpeakerLMError
from tests.support.finished_runs import make_finished_run, seal
from tests.support.tiny import TinyBase, make_base, make_llm, make_tokenizer, model_config, tokenizer_size

ALONE = Ranks(0, 1, 0, torch.device("cpu"))
DATA = DataConfig(train=[DatasetConfig(path="s3://bucket/mine")])


@dataclass(frozen=True)
class Made:
    """A finished run of stage 4, and what was exported of it."""

    base: TinyBase
    run: Path
    lora: Path  # fp32
    merged: Path  # fp32
    half: Path  # bf16

    def recipe(self, init_from: Path | str, output: Path | str = "unused", **changes: Any) -> Recipe:
        return Recipe(
            "mine", 4, str(output), model=model_config(self.base), data=DATA, init_from=str(init_from), **changes
        )

    def inside(self, folder: Path, output: Path | str = "unused", **changes: Any) -> Recipe:
        """A recipe whose LLM and encoder are those of an exported folder."""
        recipe = self.recipe(folder, output, **changes)
        parts = {"llm": LlmConfig(str(folder)), "encoder": EncoderConfig(checkpoint=str(folder), dropout=0.0)}
        recipe.model = replace(recipe.model, **parts)
        return recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("start")
    base = make_base(folder / "base")
    run = make_finished_run(folder / "run", model_config(base), stage=4, init_from="before")
    lora = export(run, folder / "lora", dtype="float32", largest=300_000)
    merged = export(run, folder / "merged", merge=True, dtype="float32")
    return Made(base, run, lora, merged, export(run, folder / "half", dtype="bfloat16"))


def started(recipe: Recipe) -> Any:
    """The model that a run of this recipe trains."""
    model = build_model(recipe.model, seed=recipe.seed)
    start = find_start(recipe, ALONE)
    assert start is not None
    model.source, digest = take_weights(model, recipe, start, ALONE)
    assert len(digest) == 64
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.llm(input_ids=torch.arange(40)[None], use_cache=False).logits


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("own_parts", [False, True], ids=["public parts", "the folder's own parts"])
def test_an_exported_folder_gives_the_weights_of_its_run_to_the_last_bit(
    made: Made, tmp_path: Path, own_parts: bool
) -> None:
    from_run = started(made.recipe(made.run, tmp_path / "a"))
    make = made.inside if own_parts else made.recipe
    model = started(make(made.lora, tmp_path / "b"))
    assert equal(model.state_dict(), from_run.state_dict())
    untouched = build_model(model_config(made.base)).state_dict()
    assert not torch.equal(untouched["speaker_projector.weight"], from_run.state_dict()["speaker_projector.weight"])
    assert model.source == tmp_path / "b" / "start" / WEIGHTS


@pytest.mark.parametrize("source", ["run", "lora"])
def test_an_embedding_of_time_starts_at_zero_where_the_source_has_none(made: Made, tmp_path: Path, source: str) -> None:
    recipe = made.recipe(getattr(made, source), tmp_path)
    wave, lengths = torch.randn(1, 16_000), torch.tensor([16_000])
    expected = started(recipe).encode_audio(wave, lengths)
    recipe.model = replace(recipe.model, projector=replace(recipe.model.projector, time_embedding=True))
    model = started(recipe)
    assert torch.equal(model.encode_audio(wave, lengths), expected)
    assert model.audio_projector.time.weight.abs().max() == 0
    # A finished run that should have the weights, and has not, is refused.
    with pytest.raises(ModelError, match=r"missing audio_projector\.time\.weight"):
        load_own_weights(model, made.run)


def test_weights_in_bf16_are_cast_to_fp32(made: Made, tmp_path: Path) -> None:
    run, model = started(made.recipe(made.run)), started(made.recipe(made.half, tmp_path))
    ours, theirs = own_state_dict(model), own_state_dict(run)
    assert {t.dtype for t in ours.values()} == {torch.float32}
    assert equal(ours, {n: t.bfloat16().float() for n, t in theirs.items()})


def test_a_merged_folder_gives_the_same_function_and_a_new_lora(made: Made, tmp_path: Path) -> None:
    """A merged weight is W + s·BA rounded once to fp32: relative 2⁻²⁴ per weight, two layers of it in a logit."""
    run, model = started(made.recipe(made.run)), started(made.inside(made.merged, tmp_path))
    a, b = own_state_dict(run), own_state_dict(model)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a if module_of(n) != "lora")
    assert all(not b[n].any() for n in b if "lora_B" in n)
    expected = logits(run)
    assert (logits(model) - expected).abs().max() <= 64 * 2**-24 * expected.abs().max()
    plain = build_model(model_config(made.base)).eval()
    assert (logits(plain) - expected).abs().max() > 1e-2


def test_lora_may_have_another_size_after_a_merge(made: Made, tmp_path: Path) -> None:
    recipe = made.inside(made.merged, tmp_path)
    recipe.model.lora = replace(recipe.model.lora, r=2, targets=["q_proj"])
    assert sum(module_of(n) == "lora" for n in own_state_dict(started(recipe))) == 4


def test_an_adapter_gives_lora_and_the_rest_is_new(made: Made, tmp_path: Path) -> None:
    recipe = replace(made.recipe(made.lora / "adapter", tmp_path), init_from_any=True)
    run, new, model = started(made.recipe(made.run)), build_model(recipe.model, seed=recipe.seed), started(recipe)
    a, b, plain = own_state_dict(run), own_state_dict(model), own_state_dict(new)
    assert all(torch.equal(b[n], a[n] if module_of(n) == "lora" else plain[n]) for n in b)
    first = replace(recipe, stage=1, init_from_any=False)  # continues no other stage
    assert find_start(first, ALONE) is not None


def test_a_run_that_started_from_a_folder_is_decoded_and_exported(made: Made, tmp_path: Path) -> None:
    """Its LLM and encoder are in the folder: no public checkpoint is needed."""
    for folder in (made.lora, made.merged):
        recipe = made.inside(folder, tmp_path / folder.name)
        model = started(recipe)
        run = Path(recipe.output)
        save_own_weights(run / WEIGHTS, own_state_dict(model), model.bases)
        save_recipe(recipe, run / "config.yaml")
        seal(run, 4, model.bases)
        again, tokenizer, _ = load_finished_run(run)
        assert equal(again.state_dict(), model.state_dict())
        assert tokenizer.hash == model.bases["tokenizer"]
        out = export(run, tmp_path / f"{folder.name}-again", merge=folder == made.lora, dtype="float32")
        loaded = SpeakerLMForConditionalGeneration.from_pretrained(out)
        assert (logits(loaded) - logits(model)).abs().max() < 1e-5


# ------------------------------------------------------------------------------------------------------------ refused


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def cut(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-100])


def flipped(folder: Path) -> None:
    tensors = own_tensors(folder)
    path = tensors._where["speaker_projector.weight"]
    data = bytearray(path.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    begin = 8 + int.from_bytes(data[:8], "little") + header["speaker_projector.weight"]["data_offsets"][0]
    data[begin] ^= 1
    path.write_bytes(data)


def stated(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / TRAINING).read_text())
        (folder / TRAINING).write_text(json.dumps(found | changes))

    return change


DAMAGE: list[tuple[Callable[[Path], Any], type[SpeakerLMError], str]] = [
    (cut, ModelError, r"safetensors is damaged"),
    (flipped, CheckpointError, "its weights are not those that were exported"),
    (lambda f: (f / "config.json").write_text("{"), ModelError, "config.json is damaged"),
    (lambda f: (f / TRAINING).write_text("{}"), ModelError, r"training.json is damaged \(stage, merged"),
    (lambda f: (f / TRAINING).unlink(), CheckpointError, "export the run again, or take its weights with --init-from"),
    (lambda f: sorted(f.glob("*.safetensors"))[1].unlink(), ModelError, "which is missing: download it again"),
    (stated(stage=2), CheckpointError, "is stage 2, stage 4 continues stage 3; --init-from takes any run's weights"),
    (stated(bases={"llm": "0"}), ModelError, "was trained with another LLM than model.llm.checkpoint"),
]


@pytest.mark.parametrize(("damage", "error", "says"), DAMAGE)
def test_a_damaged_folder_is_refused(
    made: Made, tmp_path: Path, damage: Callable[[Path], Any], error: type[SpeakerLMError], says: str
) -> None:
    folder = copied(made.lora, tmp_path / "copy")
    damage(folder)
    with pytest.raises(error, match=says):
        started(made.recipe(folder, tmp_path / "out"))


def test_a_folder_without_its_training_needs_the_flag_and_its_own_llm(made: Made, tmp_path: Path) -> None:
    folder = copied(made.lora, tmp_path / "copy")
    (folder / TRAINING).unlink()
    recipe = replace(made.recipe(folder, tmp_path / "out"), init_from_any=True)
    with pytest.raises(
        ModelError, match=f"which LLM its weights belong to: set model.llm.checkpoint to {folder} itself"
    ):
        find_start(recipe, ALONE)
    inside = replace(made.inside(folder, tmp_path / "out"), init_from_any=True)
    assert equal(own_state_dict(started(inside)), own_state_dict(started(made.recipe(made.run))))


def test_folders_that_are_something_else_are_named(made: Made, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, says in (
        (tmp_path / "empty", "is neither a finished run .* nor an exported folder .* nor a PEFT adapter"),
        (tmp_path / "nothing", r"does not exist \(no done marker\)"),
        (made.base.llm, "holds a model of type 'qwen2', not SpeakerLM: set init_from to a folder of speakerlm-export"),
        (made.lora / "adapter", f"holds LoRA alone.*name {made.lora} itself"),
    ):
        with pytest.raises((CheckpointError, ModelError), match=says):
            find_start(made.recipe(folder), ALONE)


def other_settings(recipe: Recipe) -> None:
    recipe.model.projector = replace(recipe.model.projector, ffn=64, stride=3)
    recipe.model.lora = replace(recipe.model.lora, r=2)
    recipe.model.extractor, recipe.model.speaker_dim = "another", 8


def test_settings_that_differ_are_all_listed(made: Made) -> None:
    recipe = made.recipe(made.lora)
    other_settings(recipe)
    with pytest.raises(ModelError) as e:
        find_start(recipe, ALONE)
    for text in (
        "model.projector.ffn is 64, exported: 128",
        "model.projector.stride is 3, exported: 2",
        "model.lora.r is 2, exported: 4",
        "model.extractor is 'another', exported: 'random'",
        "model.speaker_dim is 8, exported: 16",
    ):
        assert text in str(e.value)


def test_another_encoder_llm_or_vocabulary_is_refused(made: Made, tmp_path: Path) -> None:
    larger = make_base(tmp_path / "larger", layers=3)
    words = make_tokenizer(tmp_path / "words", ("other words: " + "abc def ghi " * 5,))
    make_llm(words, tokenizer_size(made.base.llm), layers=2)
    trained = make_base(tmp_path / "trained", seed=9)
    for change, says in (
        ({"encoder": EncoderConfig(checkpoint=str(larger.encoder))}, "num_blocks is 3, exported: 2"),
        ({"llm": LlmConfig(str(larger.llm))}, "num_hidden_layers is 3, exported: 2"),
        ({"llm": LlmConfig(str(words))}, "the vocabulary of model.llm.checkpoint"),
        ({"llm": LlmConfig(str(trained.llm))}, "was trained with another LLM"),
    ):
        recipe = made.recipe(made.lora)
        recipe.model = replace(recipe.model, **change)
        with pytest.raises(ModelError, match=says):
            find_start(recipe, ALONE)
    with pytest.raises(ModelError, match=f"merged into its LLM.*set model.llm.checkpoint to {made.merged} itself"):
        find_start(made.recipe(made.merged), ALONE)


@pytest.mark.parametrize("offline", ["", "1"], ids=["no network", "HF_HUB_OFFLINE"])
def test_an_id_without_a_network_is_an_error_that_says_what_to_do(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # no server
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as e:
        find_start(made.recipe("people/mine@v2"), ALONE)
    said = str(e.value)
    assert "people/mine@v2: no such local folder, and the download from huggingface failed" in said
    assert "without a network, download it first and set HF_HUB_OFFLINE=1, or give a folder" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"r": 8}, "model.lora.r is 4, the adapter's 8"),
        ({"target_modules": ["q_proj"]}, r"model.lora.targets is .*, the adapter's \['q_proj'\]"),
        ({"peft_type": "IA3"}, "is an adapter of type IA3"),
    ],
)
def test_another_adapter_is_refused(made: Made, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    folder = copied(made.lora / "adapter", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=says):
        find_start(replace(made.recipe(folder), init_from_any=True), ALONE)
