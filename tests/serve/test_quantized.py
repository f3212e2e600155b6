"""The engine on a real vLLM with an LLM that was quantized before: four bits of AWQ, in bfloat16 on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.decode.engine import answer
from pipeline.decode.load_engine import load_engine
from pipeline.decode.merged_model import llm_folder, open_merged
from pipeline.model.stopping import Guards
from pipeline.prompts import Mode, Prompt, prompt_pieces
from shards.errors import ModelError
from tests.support.awq import write_awq
from tests.support.datasets import make_dataset
from tests.support.decoding import decode_with
from tests.support.fixed_answer import always_answer
from tests.support.tiny import make_base
from tests.support.training import DIM, finished_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that answers every prompt alike, with an LLM of four bits in its folder ``llm``."""
    folder = tmp_path_factory.mktemp("quantized")
    always_answer(make_base(folder / "base", heads=2).llm, "spk0: yes")
    found = finished_run(folder)
    write_awq(llm_folder(open_merged(found, torch.float32), folder / "cache"), found / "llm")
    return found


def test_an_llm_of_four_bits_answers_and_its_folder_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEAKERLM_CACHE", str(tmp_path / "cache"))
    make_dataset(tmp_path / "test", samples=3, speakers_per_sample=(1, 2), dim=DIM, seed=9)
    decode_with(run, tmp_path / "test", tmp_path / "out", modes="no", device="cpu", engine="vllm", max_new_tokens=12)
    rows = [json.loads(line) for line in (tmp_path / "out" / "no.jsonl").read_text().splitlines()]
    assert [(r["raw"].strip(), r["stop"]) for r in rows] == [("spk0: yes", "end")] * 3
    described = json.loads((tmp_path / "out" / "decode.json").read_text())
    assert described["settings"]["engine"]["quantize"] == "awq"
    assert described["about"]["run"].endswith(" (awq)")
    assert not (tmp_path / "cache").exists()  # the merged LLM was not written


def test_weights_that_vllm_cannot_take_are_an_error_of_the_model(run: Path) -> None:
    path = run / "llm" / "config.json"
    before = path.read_text()
    config = json.loads(before)
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    path.write_text(json.dumps(config))
    try:
        with pytest.raises(ModelError, match=r"vLLM cannot load the LLM .*--engine transformers"):
            load_engine(run, "cpu", "vllm")
    finally:
        path.write_text(before)
    prompt = Prompt(tuple(prompt_pieces(Mode.NO)), np.zeros(16_000, np.float32))
    assert answer(load_engine(run, "cpu", guards=Guards(max_new_tokens=12)).engine, [prompt])[0].text == "spk0: yes"
