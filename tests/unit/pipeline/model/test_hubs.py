"""Checkpoints by id, from ModelScope and Hugging Face: real clients against a hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.model.build import build_model
from pipeline.recipe.load import save_recipe
from pipeline.recipe.schema import EncoderConfig, LlmConfig
from tests.support.hub import model_hub
from tests.support.tiny import TinyBase, model_config
from tests.support.training import tiny_recipe

# In a process of its own: both clients read their addresses when they are imported. It takes several recipes, since
# importing torch and transformers costs seconds.
SCRIPT = """
import sys
import torch
from pipeline.recipe.load import load_recipe
from pipeline.model.build import build_model, load_tokenizer
from shards.errors import ModelError

for recipe, out in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        recipe = load_recipe(recipe)
        model = build_model(recipe.model)
        torch.save({"state": model.state_dict(), "tokens": load_tokenizer(recipe.model).hash}, out)
    except ModelError as e:
        print("ModelError:", e)
"""
ENCODER, LLM = "iic/SenseVoiceSmall", "Qwen/Qwen2.5-7B-Instruct"
HUBS = (("modelscope", "huggingface"), ("huggingface", "modelscope"))  # of the encoder and the LLM


def start(recipes: Sequence[Path], out: str, cache: Path, url: str, **env: str) -> list[str]:
    """Build the models of recipes and write each beside its recipe; returns the lines that were printed."""
    places = {"HF_ENDPOINT": url, "HF_HOME": str(cache / "hf"), "HF_HUB_DISABLE_XET": "1"}
    places |= {"MODELSCOPE_ENDPOINT": url, "MODELSCOPE_CACHE": str(cache / "modelscope"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(str(path) for r in recipes for path in (r, r.with_name(out)))],
        env={**os.environ, **places, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def write(folder: Path, base: TinyBase, encoder: EncoderConfig, llm: LlmConfig) -> Path:
    folder.mkdir()
    recipe = tiny_recipe(folder, folder / "run", stage=1)
    recipe.model = replace(model_config(base), encoder=replace(encoder, dropout=0.0), llm=llm)
    save_recipe(recipe, folder / "recipe.yaml")
    return folder / "recipe.yaml"


def test_both_hubs_deliver_both_layouts_and_the_cache_does_without_them(base: TinyBase, tmp_path: Path) -> None:
    (base.llm / "pytorch_model.bin").write_bytes(b"the weights a second time, in another format")
    try:
        recipes = [
            write(tmp_path / e, base, EncoderConfig(checkpoint=ENCODER, hub=e), LlmConfig(LLM, llm)) for e, llm in HUBS
        ]
        with model_hub({ENCODER: base.encoder, LLM: base.llm}) as (url, asked):
            assert start(recipes, "out.pt", tmp_path / "cache", url) == []
    finally:
        (base.llm / "pytorch_model.bin").unlink()
    assert any("am.mvn" in request for request in asked)
    assert not any("pytorch_model.bin" in request for request in asked)
    local = build_model(model_config(base))
    for recipe in recipes:
        found = torch.load(recipe.with_name("out.pt"))
        assert all(torch.equal(found["state"][name], t) for name, t in local.state_dict().items())
        assert found["tokens"] == local.bases["tokenizer"]
    assert start(recipes, "again.pt", tmp_path / "cache", url, HF_HUB_OFFLINE="1") == []  # the server has stopped
    assert all(r.with_name("again.pt").exists() for r in recipes)


def test_an_id_that_a_hub_does_not_have_is_named(base: TinyBase, tmp_path: Path) -> None:
    encoder, hubs = EncoderConfig(checkpoint=str(base.encoder)), ("modelscope", "huggingface")
    recipes = [write(tmp_path / hub, base, encoder, LlmConfig("unknown/nothing", hub)) for hub in hubs]
    with model_hub({}) as (url, _):
        said = start(recipes, "out.pt", tmp_path / "cache", url)
    assert len(said) == 2
    for line, hub in zip(said, hubs, strict=True):
        assert f"ModelError: unknown/nothing: no such local folder, and the download from {hub} failed" in line
