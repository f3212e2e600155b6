"""What costs nothing to check is checked first: a wrong path or a missing package is said before torch is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.commands import require
from shards.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "deepspeed", "funasr", "faster_whisper")
TINY = str(ROOT / "launch" / "recipes" / "tiny" / "stage1.yaml")
# Module, arguments, installed packages that count as missing, what the error says.
CASES = [
    ("pipeline.train.cli", "no/such.yaml", "", "no recipe at no/such.yaml"),
    ("pipeline.train.cli", f"{TINY} monitor.tensorboard=true", "tensorboard", "speakerlm-pretrain[monitor]"),
    ("pipeline.train.cli", f"{TINY} monitor.wandb=true", "wandb", "monitor.wandb needs wandb"),
    ("pipeline.preflight.cli", "no/such.yaml", "", "no recipe at no/such.yaml"),
    ("pipeline.preflight.cli", f"{TINY} trainer.max_steps=0", "", "trainer.max_steps is 0"),
    ("pipeline.ranks.nodecheck", "no/such.yaml", "", "no recipe at no/such.yaml"),
    ("pipeline.decode.test_set", "run data out", "", "run does not exist"),
    ("pipeline.evaluation.cli", "ref hyp", "", "ref does not exist"),
    ("pipeline.evaluation.curves", "run", "", "run has no train.jsonl"),
    ("pipeline.export.cli", "run out", "", "run does not exist"),
    ("pipeline.transcribe.cli", f"{TINY} --model none", "", "none is neither a finished run"),
    (
        "pipeline.transcribe.cli",
        "--ui --model none",
        "gradio",
        "--ui needs gradio: pip install 'speakerlm-pretrain[ui]'",
    ),
    ("pipeline.serve.cli", "none", "fastapi", "speakerlm-serve needs fastapi: pip install 'speakerlm-pretrain[serve]'"),
    ("pipeline.serve.cli", "none", "", "none is neither a finished run"),
    ("pipeline.serve.cli", "none --host 0.0.0.0", "", "set SPEAKERLM_API_KEY"),
    ("pipeline.baselines.cli", "run data out", "faster_whisper", "speakerlm-pretrain[baselines]"),
    ("pipeline.baselines.cli", "run data out --asr paraformer --diarizer pyannote@x", "pyannote", "[pyannote]"),
    ("pipeline.baselines.cli", "correct decoded out --llm x", "", "decoded has no no.jsonl"),
    ("pipeline.standins.__main__", "data out", "", "data/asr/dataset.json"),
    ("shards.cli", "pack manifest out", "", "manifest/recordings.jsonl"),
    ("shards.cli", "embed data --manifest m --enrol e --extractor x", "", "data/dataset.json"),
]


def test_errors_come_before_heavy_imports(tmp_path: Path) -> None:
    """Each in a fork of one process that has imported nothing."""
    code = """
import contextlib, io, json, os, sys
from importlib import import_module
from importlib.machinery import PathFinder
cases, heavy = json.loads(sys.argv[1])

class Finder(PathFinder):
    missing = ""
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == cls.missing else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
for module, arguments, missing, _ in cases:
    if os.fork() == 0:
        Finder.missing = missing
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = import_module(module).main(arguments.split())
        print(json.dumps([code, said.getvalue(), [name for name in heavy if name in sys.modules]]), flush=True)
        os._exit(0)
    os.wait()
"""
    command = [sys.executable, "-c", code, json.dumps([CASES, HEAVY])]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=env)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(CASES), done.stderr
    for case, (code, said, heavy) in zip(CASES, rows, strict=True):
        assert (code, heavy) == (1, []), (case, said)
        assert case[3] in said, case
        assert "Traceback" not in said, case


def test_a_required_package_is_named_with_its_extra() -> None:
    require("numpy", "core", "this test")
    for absent in ("no_such_package", "no_such_package.part"):
        with pytest.raises(ConfigError, match=rf"--ui needs {absent}: pip install 'speakerlm-pretrain\[ui\]'"):
            require(absent, "ui", "--ui")
