"""Systems run by transformers: tiny random models of the real classes, in folders of the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForMultimodalLM,
    AutoProcessor,
    MossTranscribeDiarizeConfig,
    MossTranscribeDiarizeFeatureExtractor,
    MossTranscribeDiarizeForConditionalGeneration,
    MossTranscribeDiarizeProcessor,
    PreTrainedTokenizerFast,
)

from pipeline.baselines.cli import main
from pipeline.baselines.systems import SYSTEMS, Prompt, load_prompt
from pipeline.baselines.transformers_system import TransformersSystem
from pipeline.evaluation.scores import score_decoded
from shards.errors import ConfigError, ModelError

WAVE = np.sin(np.arange(40_000) / 9).astype(np.float32) / 4
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>"]
TEMPLATE = """{%- for m in messages -%}<|im_start|>{{ m.role }}
{%- for c in m.content -%}
{%- if c.type == 'audio' -%}<|audio_start|><|audio_pad|><|audio_end|>{%- else -%}{{ c.text }}{%- endif -%}
{%- endfor -%}<|im_end|>{%- endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant{%- endif -%}"""


def tokenizer() -> PreTrainedTokenizerFast:
    """A character of ASCII is a token."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(letters))}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import decoders

    made.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    found.add_special_tokens({"additional_special_tokens": SPECIAL})
    return found


@pytest.fixture(scope="module")
def moss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MOSS-Transcribe-Diarize with one layer of 16 dimensions on either side."""
    folder = tmp_path_factory.mktemp("moss")
    words = tokenizer()
    size: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = size | {"model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 8, "vocab_size": len(words)}
    torch.manual_seed(3)
    config = MossTranscribeDiarizeConfig(
        audio_config=size, text_config=text, audio_token_id=words.convert_tokens_to_ids("<|audio_pad|>")
    )
    model = MossTranscribeDiarizeForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.convert_tokens_to_ids("<|im_end|>")
    model.save_pretrained(folder)
    MossTranscribeDiarizeProcessor(MossTranscribeDiarizeFeatureExtractor(), words, TEMPLATE).save_pretrained(folder)
    return folder


def test_the_text_is_what_the_library_s_own_request_gives(moss: Path):
    processor = AutoProcessor.from_pretrained(moss)
    model = AutoModelForMultimodalLM.from_pretrained(moss).eval()
    asked = processor.apply_transcription_request(WAVE, prompt="who?", processor_kwargs={"return_tensors": "pt"})
    with torch.inference_mode():
        ids = model.generate(**asked, max_new_tokens=12, do_sample=False)
    before = asked["input_ids"].shape[1]
    reply = TransformersSystem(str(moss), SYSTEMS["moss"], most_tokens=12).hear(WAVE, "who?")
    assert reply.text == processor.tokenizer.decode(ids[0, before:], skip_special_tokens=True).strip()
    assert reply.usage == {"prompt_tokens": before, "completion_tokens": ids.shape[1] - before}
    assert reply.stop == ("cut" if ids.shape[1] - before == 12 else "end")
    other = TransformersSystem(str(moss), SYSTEMS["moss"], most_tokens=12).hear(-(WAVE[:20_000] ** 3), "who?")
    assert other.usage["prompt_tokens"] < before  # shorter audio has fewer positions


def test_the_command_writes_rows_with_prompt_hash_and_real_time_factor(moss: Path, tmp_path: Path, capsys):
    paths = []
    for name in "ab":
        soundfile.write(path := tmp_path / f"{name}.wav", WAVE, 16_000)
        paths.append(str(path))
    (tmp_path / "ref.stm").write_text("a 1 Mike 0 1 how are you\nb 1 Mike 0 1 fine\n")
    out = tmp_path / "out"
    command = ["e2e", *paths, str(out), "--system", "moss", "--transformers", str(moss), "--most-tokens", "8"]
    assert main([*command, "--device", "cpu", "--reference", str(tmp_path / "ref.stm")]) == 0
    rows = [json.loads(line) for line in (out / "no.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(r["key"], r["format"], r["model"], r["prompt_sha256"]) for r in rows] == [
        (key, "moss", str(moss), Prompt("").sha256) for key in "ab"
    ]  # fmt: skip
    assert all(r["usage"]["completion_tokens"] <= 8 and r["seconds"] > 0 for r in rows)
    assert json.loads((out / "decode.json").read_text())["timing"]["no"]["audio_seconds"] == 5.0
    assert "real-time factor" in capsys.readouterr().out
    (scored,) = score_decoded(out)
    assert scored["cer"] > 0


def test_templates_that_ask_by_themselves_get_no_prompt_but_that_of_a_file(tmp_path: Path):
    (tmp_path / "p.txt").write_text("names: Mike")
    for name in ("moss", "vibevoice"):
        assert load_prompt(SYSTEMS[name], None, local=True).text == ""
        assert load_prompt(SYSTEMS[name], tmp_path / "p.txt", local=True).text == "names: Mike"
    assert load_prompt(SYSTEMS["vibevoice"], None).text
    assert load_prompt(SYSTEMS["qwen3-omni"], None, local=True).text


def test_what_cannot_be_run_is_refused(tmp_path: Path, capsys):
    with pytest.raises(ModelError, match=r"transformers cannot load it .* such as OpenMOSS-Team"):
        TransformersSystem(str(tmp_path), SYSTEMS["moss"])
    with pytest.raises(ConfigError, match=r"is known for gemini-2\.5-pro; use --endpoint"):
        TransformersSystem(str(tmp_path), SYSTEMS["gemini"])
    with pytest.raises(SystemExit):
        main(["e2e", "a", "b", "--system", "moss", "--transformers", "x", "--endpoint", "http://localhost/v1"])
    assert "not allowed with" in capsys.readouterr().err
