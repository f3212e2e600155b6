"""An exported folder in a process that knows neither the project nor what only the project needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from pipeline.export.folder import export
from pipeline.model.build import load_finished_run
from pipeline.model.processing_speakerlm import SpeakerLMProcessor

ABSENT = "pipeline shards launch tests deepspeed webdataset pyarrow boto3 kaldi_native_fbank modelscope soxr"
# Started with -I -S: no PYTHONPATH, no current folder, no .pth file that an editable install leaves.
SCRIPT = """
import json, sys
from importlib.machinery import PathFinder
folder, packages, out, absent = sys.argv[1:5]
sys.path.append(packages)

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in absent.split() else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq, AutoProcessor

torch.set_num_threads(1)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
assert type(AutoModelForSpeechSeq2Seq.from_pretrained(folder, trust_remote_code=True)).__name__ == type(model).__name__
waves = [w.numpy() for w in torch.load(out + "/waves.pt")]
vectors = torch.load(out + "/vectors.pt").numpy()
registered = [{"Mike": vectors[0], "Lucy": vectors[1]}, None, {"王小明": vectors[2]}]
inputs = processor(waves, registered=registered, extractor="random")
ids = model.generate(**inputs, max_new_tokens=12)
ours = sorted(n for n in sys.modules if n.split(".")[0] in absent.split())
print(json.dumps({"type": config.model_type, "module": type(model).__module__, "ids": ids.tolist(), "ours": ours,
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
    keep = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SCRIPT, folder, sysconfig.get_paths()["purelib"], tmp_path, absent],
        env={**keep, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["type"] == "speakerlm"
    assert found["module"].startswith("transformers_modules.")
    assert found["ours"] == []
    assert found["frozen"]
    model, tokenizer, _ = load_finished_run(run)
    processor = SpeakerLMProcessor(tokenizer, 2, 16, "random")
    registered = [{"Mike": vectors[0], "Lucy": vectors[1]}, None, {"王小明": vectors[2]}]
    ends = {"eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    inputs = processor(waves, registered=registered)
    expected = model.generate(**inputs, max_new_tokens=12, **ends)
    assert found["ids"] == expected.tolist()
    assert found["texts"] == processor.batch_decode(expected)
    assert len(set(found["texts"])) > 1
