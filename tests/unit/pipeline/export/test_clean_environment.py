"""An exported folder in a process that knows neither the project nor what only the project needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.export.folder import export
from pipeline.model.build import load_finished_run
from pipeline.model.processing_speakerlm import SpeakerLMProcessor
from tests.support.exported import PROJECT, run_outside

ABSENT = f"{PROJECT} kaldi_native_fbank soxr soundfile fastcrc av"  # a model is loaded without what audio files need
SCRIPT = """
from transformers import AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq, AutoProcessor

config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
assert type(AutoModelForSpeechSeq2Seq.from_pretrained(folder, trust_remote_code=True)).__name__ == type(model).__name__
waves = [w.numpy() for w in torch.load(out + "/waves.pt")]
vectors = torch.load(out + "/vectors.pt").numpy()
registered = [{"Mike": vectors[0], "Lucy": vectors[1]}, None, {"王小明": vectors[2]}]
inputs = processor(waves, registered=registered, extractor="random")
ids = model.generate(**inputs, max_new_tokens=12)
without_limit = model.generate(**inputs, min_new_tokens=30).shape[1]
ours = sorted(n for n in sys.modules if n.split(".")[0] in absent)
print(json.dumps({"type": config.model_type, "module": type(model).__module__, "ids": ids.tolist(), "ours": ours,
                  "without_limit": without_limit,
                  "texts": processor.batch_decode(ids), "frozen": not model.llm.lm_head.weight.requires_grad}))
"""


@pytest.mark.parametrize("merge", [False, True])
def test_it_generates_what_the_run_itself_generates(run: Path, tmp_path: Path, merge: bool) -> None:
    folder = export(run, tmp_path / "out", merge)
    generator = torch.Generator().manual_seed(3)
    waves = [torch.randn(n, generator=generator) * 0.1 for n in (9000, 16000, 5000)]
    vectors = torch.randn(3, 16, generator=generator)
    torch.save(waves, tmp_path / "waves.pt")
    torch.save(vectors, tmp_path / "vectors.pt")
    absent = ABSENT + " peft" * merge  # a merged export needs no peft
    found = run_outside(SCRIPT, folder, tmp_path, absent)
    assert found["type"] == "speakerlm"
    assert found["module"].startswith("transformers_modules.")
    assert found["ours"] == []
    assert found["frozen"]
    assert 30 <= found["without_limit"] <= 64 + 25  # of the longest audio, 1 s; transformers' own limit is 20
    model, tokenizer, _ = load_finished_run(run)
    processor = SpeakerLMProcessor(tokenizer, 2, 16, "random")
    registered = [{"Mike": vectors[0], "Lucy": vectors[1]}, None, {"王小明": vectors[2]}]
    ends = {"eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    inputs = processor(waves, registered=registered)
    expected = model.generate(**inputs, max_new_tokens=12, **ends)
    assert found["ids"] == expected.tolist()
    assert found["texts"] == processor.batch_decode(expected)
    assert len(set(found["texts"])) > 1
