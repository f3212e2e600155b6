"""Checkpoints by id, from ModelScope and Hugging Face: real clients against a hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.model.build import build_model
from pipeline.recipe.load import save_recipe
from pipeline.recipe.schema import EncoderConfig, LlmConfig
from tests.support.hub import model_hub
from tests.support.tiny import TinyBase, model_config
from tests.support.training import tiny_recipe

# In a process of its own: both clients read their addresses when they are imported.
SCRIPT = """
import sys
import torch
from pipeline.recipe.load import load_recipe
from pipeline.model.build import build_model, load_tokenizer
from shards.errors import ModelError

try:
    recipe = load_recipe(sys.argv[1])
    model = build_model(recipe.model)
    torch.save({"state": model.state_dict(), "tokens": load_tokenizer(recipe.model).hash}, sys.argv[2])
except ModelError as e:
    print("ModelError:", e)
"""
ENCODER, LLM = "iic/SenseVoiceSmall", "Qwen/Qwen2.5-7B-Instruct"


def start(recipe: Path, out: Path, url: str, **env: str) -> str:
    cache = out.parent / "cache"
    places = {"HF_ENDPOINT": url, "HF_HOME": str(cache / "hf"), "HF_HUB_DISABLE_XET": "1"}
    places |= {"MODELSCOPE_ENDPOINT": url, "MODELSCOPE_CACHE": str(cache / "modelscope"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, recipe, out],
        env={**os.environ, **places, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def write(folder: Path, base: TinyBase, encoder: EncoderConfig, llm: LlmConfig) -> Path:
    recipe = tiny_recipe(folder, folder / "run", stage=1)
    recipe.model = replace(model_config(base), encoder=replace(encoder, dropout=0.0), llm=llm)
    save_recipe(recipe, folder / "recipe.yaml")
    return folder / "recipe.yaml"


@pytest.mark.parametrize(("of_encoder", "of_llm"), [("modelscope", "huggingface"), ("huggingface", "modelscope")])
def test_both_hubs_deliver_both_layouts_and_the_cache_does_without_them(
    base: TinyBase, tmp_path: Path, of_encoder: str, of_llm: str
) -> None:
    (base.llm / "pytorch_model.bin").write_bytes(b"the weights a second time, in another format")
    try:
        recipe = write(tmp_path, base, EncoderConfig(checkpoint=ENCODER, hub=of_encoder), LlmConfig(LLM, of_llm))
        with model_hub({ENCODER: base.encoder, LLM: base.llm}) as (url, asked):
            assert start(recipe, tmp_path / "out.pt", url) == ""
    finally:
        (base.llm / "pytorch_model.bin").unlink()
    assert any("am.mvn" in request for request in asked)
    assert not any("pytorch_model.bin" in request for request in asked)
    local = build_model(model_config(base))
    found = torch.load(tmp_path / "out.pt")
    assert all(torch.equal(found["state"][name], t) for name, t in local.state_dict().items())
    assert found["tokens"] == local.bases["tokenizer"]
    assert start(recipe, tmp_path / "again.pt", url, HF_HUB_OFFLINE="1") == ""  # the server has stopped
    assert (tmp_path / "again.pt").exists()


@pytest.mark.parametrize("hub", ["modelscope", "huggingface"])
def test_an_id_that_a_hub_does_not_have_is_named(base: TinyBase, tmp_path: Path, hub: str) -> None:
    recipe = write(tmp_path, base, EncoderConfig(checkpoint=str(base.encoder)), LlmConfig("unknown/nothing", hub))
    with model_hub({}) as (url, _):
        said = start(recipe, tmp_path / "out.pt", url)
    assert f"ModelError: unknown/nothing: no such local folder, and the download from {hub} failed" in said
    assert len(said.splitlines()) == 1
