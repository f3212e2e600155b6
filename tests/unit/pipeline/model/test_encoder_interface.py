"""A speech encoder of another package: found by its entry point, built, run, refused where it is unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.model.build import build_model, load_tokenizer
from pipeline.model.configuration_speakerlm import SpeakerLMConfig
from pipeline.model.encoder_interface import encoder_names, find_encoder
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.preflight.shapes import empty_model
from pipeline.prompts import Mode
from pipeline.recipe.checks import check
from pipeline.recipe.schema import EncoderConfig, ModelConfig
from shards.errors import ConfigError
from tests.support.packed import example, pack
from tests.support.tiny import TinyBase, model_config
from tests.support.training import tiny_recipe

MODULE = """
import torch
from pipeline.frames import LFR_SHIFT, HOP_SAMPLES, encoder_frames

CLASS_NAME, FILES, DROPOUTS, FEATURE_WIDTH, REQUIRES = "FrameLinear", ("width",), ("dropout",), 0, ("frame-linear",)
SHAPES = {"frame-linear-8": (CLASS_NAME, {"width": 8, "dropout": 0.1})}
FRAME = LFR_SHIFT * HOP_SAMPLES


class Checkpoint:
    class_name, frontend_conf, shift, scale = CLASS_NAME, {}, [], []

    def __init__(self, folder):
        self.folder, self.encoder_conf = folder, {"width": int((folder / "width").read_text()), "dropout": 0.1}

    def encoder_state(self):
        return {"linear.weight": torch.ones(self.encoder_conf["width"], FRAME)}


class Frontend(torch.nn.Module):
    stacked = 1

    def forward(self, waveforms, lengths):
        frames = [encoder_frames(n) for n in lengths]
        total = max(frames) * FRAME
        padded = torch.nn.functional.pad(waveforms, (0, max(0, total - waveforms.shape[1])))[:, :total]
        return padded.unflatten(1, (-1, FRAME)), frames


class FrameLinear(torch.nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.linear, self.dropout = torch.nn.Linear(FRAME, width, bias=False), dropout
        self.output_size = self.width = width
        self.blocks, self.states, self.longest, self.activation_checkpointing = 1, 1, None, False

    def forward(self, features, lengths):
        return self.linear(features.to(self.linear.weight.dtype))

    def load_checkpoint(self, checkpoint):
        self.load_state_dict(checkpoint.encoder_state())


def read_checkpoint(folder):
    return Checkpoint(folder)


def build_frontend(config):
    return Frontend()


def build_encoder(config):
    return FrameLinear(**config.encoder_conf)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with an encoder, as pip would install it."""
    site = tmp_path / "site"
    about = site / "frame_linear-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: frame-linear\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[speakerlm.encoders]\nframe-linear = frame_linear\n")
    (site / "frame_linear.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(site))


def with_encoder(base: TinyBase, encoder: EncoderConfig) -> ModelConfig:
    cfg = model_config(base)
    return replace(cfg, encoder=encoder)


def test_encoder_of_another_package_is_built_from_its_checkpoint_and_runs(
    installed: None, base: TinyBase, tmp_path: Path
) -> None:
    (tmp_path / "width").write_text("8")
    cfg = with_encoder(base, EncoderConfig(type="frame-linear", checkpoint=str(tmp_path), dropout=0.0))
    model = build_model(cfg)
    assert type(model.encoder).__name__ == "FrameLinear"
    assert model.encoder.dropout == 0.0
    assert (model.encoder.linear.weight == 1).all()
    batch = pack((example(Mode.MATCH, ("Mike",), "Mike: hi", 12000, seed=1),), load_tokenizer(cfg))
    model(**batch).loss.backward()
    assert model.encoder.linear.weight.grad.abs().sum() > 0
    again = SpeakerLMForConditionalGeneration(SpeakerLMConfig.from_dict(model.config.to_dict()))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(**batch).loss, model(**batch).loss)


def test_preflight_knows_the_shapes_that_the_encoder_publishes(installed: None, base: TinyBase) -> None:
    cfg = with_encoder(base, EncoderConfig(type="frame-linear", checkpoint="someone/frame-linear-8"))
    model, sources = empty_model(cfg, "float32")
    assert model.encoder.linear.weight.shape == (8, 960)
    assert sources[0].startswith("encoder: known shape of frame-linear-8")


def test_recipe_accepts_an_installed_encoder_and_names_the_known_ones(
    base: TinyBase, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    recipe = tiny_recipe(tmp_path, tmp_path / "run")
    recipe.init_from = "stage3"
    recipe.model = with_encoder(base, EncoderConfig(type="frame-linear"))
    with pytest.raises(ConfigError, match=r"type is 'frame-linear', must be one of sensevoice, whisper"):
        check(recipe, "here")
    with pytest.raises(ConfigError, match="known: sensevoice, whisper"):
        find_encoder("frame-linear")
    request.getfixturevalue("installed")
    check(recipe, "here")
    assert encoder_names() == ["frame-linear", "sensevoice", "whisper"]


def test_configurations_of_built_in_encoders_do_not_record_a_type(base: TinyBase) -> None:
    assert "encoder_type" not in build_model(model_config(base)).config.to_diff_dict()
