"""The LLM in 8 bits: products, what is replaced, and answers that depend on no neighbour."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.decode.engine import answer
from pipeline.decode.load_engine import load_engine
from pipeline.decode.test_set import main
from pipeline.model.int8 import Int8Linear, use_int8
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.model.stopping import Guards
from pipeline.prompts import Mode, Prompt, prompt_pieces
from pipeline.transcribe.cli import main as transcribe
from shards.errors import ConfigError
from tests.support.datasets import make_dataset
from tests.support.training import DIM, finished_run, make_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder)
    finished_run(folder)
    return folder


@pytest.mark.parametrize("bias", [True, False])
def test_products_are_close_and_a_row_is_the_same_in_any_batch(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40, bias)
    rounded = Int8Linear(linear)
    x = torch.randn(3, 7, 96)
    x[0, 0] *= 1e4  # one token's outliers are its own
    with torch.inference_mode():
        right, found = linear(x), rounded(x)
        assert found.shape == right.shape
        error = (found - right).norm(dim=-1) / right.norm(dim=-1)
        assert error.max() < 0.03
        assert torch.equal(rounded(x[1:2, 3:4]), found[1:2, 3:4])
        assert rounded(torch.zeros(2, 96)).isfinite().all()
        assert rounded(x.bfloat16()).dtype == torch.bfloat16
    assert rounded.weight.dtype == torch.int8
    assert rounded.weight.nbytes * 4 == linear.weight.nbytes


def test_the_llm_alone_is_rounded_and_lora_is_not(parts: Path) -> None:
    network = load_engine(parts / "run", "cpu").engine.model  # type: ignore[attr-defined]
    assert isinstance(network, SpeakerLMForConditionalGeneration)
    before = {n for n, m in network.named_modules() if type(m) is nn.Linear}
    use_int8(network)
    left = {n for n, m in network.named_modules() if type(m) is nn.Linear}
    rounded = {n for n, m in network.named_modules() if isinstance(m, Int8Linear)}
    assert rounded == before - left
    assert rounded == {n for n in before if n.startswith("llm.") and ".lora_" not in n}
    assert any(n.endswith("lm_head") for n in rounded)
    assert isinstance(network.llm.get_input_embeddings(), nn.Embedding)


def test_answers_come_and_are_alike_alone_and_in_a_batch(parts: Path) -> None:
    torch.manual_seed(1)
    prompts = [Prompt(tuple(prompt_pieces(Mode.NO)), (0.1 * torch.randn(n)).numpy()) for n in (8000, 16000, 12000)]
    engine = load_engine(parts / "run", "cpu", guards=Guards(max_new_tokens=12), quantize="int8").engine
    together = answer(engine, prompts)
    assert [answer(engine, [p])[0].ids for p in prompts] == [a.ids for a in together]
    assert all(a.tokens for a in together)
    assert engine.described() == {"quantize": "int8"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "vllm", "quantize": "int8"}, "leave it or --engine vllm out"),
        ({"name": "vllm", "quantize": "nf4"}, "in the model's folder llm"),
        ({"quantize": "int3"}, "known: int8, nf4"),
    ],
)
def test_what_cannot_be_rounded_is_refused_before_it_is_loaded(tmp_path: Path, options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_engine(tmp_path, **{"device": "cpu", **options})


def test_inexact_products_are_refused(monkeypatch: pytest.MonkeyPatch, parts: Path) -> None:
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: torch.full((2, 2), 32767))
    with pytest.raises(ConfigError, match="not exact"):
        load_engine(parts / "run", "cpu", quantize="int8")


def test_a_decoded_folder_says_so_and_does_not_mix(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path / "test", samples=2, speakers_per_sample=(1, 2), dim=DIM, seed=9)
    command = [
        str(parts / "run"),
        str(tmp_path / "test"),
        str(tmp_path / "out"),
        "--modes",
        "no",
        "--max-new-tokens",
        "4",
    ]
    assert main([*command, "--quantize", "int8", "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "out" / "decode.json").read_text())["settings"]["engine"] == {"quantize": "int8"}
    assert main([*command, "--device", "cpu"]) == 1
    assert "another engine" in capsys.readouterr().err


def test_dialogues_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        transcribe(["a.wav", "--model", str(tmp_path), "--reasoner", "--quantize", "int8"])
    assert "leave --reasoner or --quantize out" in capsys.readouterr().err
