"""What a chain of jobs needs: less of the demo's speech, stand-ins for base models, the tiny recipes, a site file."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from shards.cli import main
from shards.manifests.manifest import Recording, read_manifest, read_speakers, write_manifest
from tests.support.distributed import CPU, ROOT
from tests.support.rgw import Gateway
from tests.support.speech import package_cache

sys.path.insert(0, str(ROOT / "launch"))  # as its scripts see each other
from chain import training_steps
from demo import SMOKE, data_steps

STEPS = 24  # of stage 1, where things happen; the others have four
ENROL = 4  # clips of each voice
SIZE = replace(SMOKE, asr=12, simulated=12, harder=12, test=6, samples_per_shard=4)
TEST = "test-simulated"
TRAINS = {1: "asr", 2: "simulated", 3: "harder", 4: "harder"}
SETS = (*dict.fromkeys(TRAINS.values()), TEST)
_SITE = """
PYTHON={python}
LOGS={folder}/logs
PACK_TASKS=2
PACK_SBATCH=(--ntasks=1 --time=60)
TRAIN_SBATCH=(--nodes=2 --ntasks-per-node=1 --cpus-per-task=2 --time=60 --signal=USR1@60)
SCORE_SBATCH=(--ntasks=1 --time=60)
MAX_RESTARTS=3
DECODE=(--modes no,match --max-new-tokens 12 --batch 6)
NODECHECK=(--disk-gb 0.1 --skew 2.0)
"""


@dataclass(frozen=True)
class Corpus:
    """The demo's speech: conversations, packed by one process; and base models that know their words."""

    folder: Path
    packing: dict[str, list[str]]  # dataset → manifest, packed folder, options of `pack`

    @property
    def models(self) -> Path:
        """encoder/ and llm/."""
        return self.folder / "models"


@dataclass(frozen=True)
class Campaign:
    """Files of jobs and of the script that submits them."""

    folder: Path
    bucket: str  # URL
    corpus: Corpus
    environment: dict[str, str]  # of the script that submits

    @property
    def corpora(self) -> Path:
        """What submit_all.sh packs."""
        return self.folder / "corpora.txt"

    @property
    def recipes(self) -> Path:
        """stage1.yaml … stage4.yaml."""
        return self.folder / "recipes"

    def data(self, name: str) -> str:
        """URL of a packed dataset."""
        return f"{self.bucket}/{name}"

    def run(self, stage: int) -> Path:
        """Output of a stage of the undisturbed chain."""
        return self.folder / "exp" / f"stage{stage}"

    def said(self) -> str:
        """All that jobs have written so far, the newest at the end."""
        files = sorted((self.folder / "logs").glob("*.out"), key=lambda p: p.stat().st_mtime)
        return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')}" for p in files)


def make_corpus(folder: Path) -> Corpus:
    """By the demo's own commands up to stage 0: packaged speech, rooms and noise. Of three test sets one is made."""
    pytest.importorskip("av")
    packing = {}
    with cached(cache := package_cache().absolute()):
        for step in data_steps(folder, SIZE, cache):
            name = step.name.rpartition(" ")[2]
            _, _, _, command, *options = step.command
            if command == "prepare" or name in SETS:
                assert main([command, *options]) == 0, step.name
            if command == "prepare":
                _keep_few(folder / "data" / "speech" / "prompts")
            if command == "pack" and name in SETS:
                packing[name] = options
        for stage0 in islice(training_steps(folder, SIZE.training), 2):  # LLM and encoder
            subprocess.run(stage0.command, check=True, cwd=ROOT, env=os.environ | CPU)
    return Corpus(folder, packing)


def _keep_few(manifest: Path) -> None:
    """Of each voice only some speech to enrol from: each task of an array embeds all that there is."""
    found: dict[str, list[Recording]] = {}
    for recording in read_manifest(manifest):
        if 2.0 <= (recording.duration or 0.0) <= 8.0:
            found.setdefault(recording.segments[0].speaker, []).append(recording)
    kept = [recording for of_voice in found.values() for recording in of_voice[:ENROL]]
    write_manifest(manifest, kept, list(read_speakers(manifest)), {})


@contextmanager
def cached(folder: Path) -> Iterator[None]:
    """Package files and speaker models are kept there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEAKERLM_CACHE", str(folder))
        yield


def make_campaign(folder: Path, rgw: Gateway, corpus: Corpus) -> Campaign:
    """Write everything but the packed data."""
    bucket = f"s3://{rgw.new_bucket()}"
    home, names = folder / "home", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for made in (home, folder / "logs", folder / "recipes"):
        made.mkdir()
    credentials = [f"{name.lower()} = {rgw.environment[name]}" for name in names]
    (home / "credentials").write_text("\n".join(["[default]", *credentials]) + "\n")
    lines = ["# manifest, dataset, options"]
    for name, (manifest, _, *options) in corpus.packing.items():
        lines.append(shlex.join([manifest, f"{bucket}/{name}", *options]))
    (folder / "corpora.txt").write_text("\n".join(lines) + "\n")
    for stage, name in TRAINS.items():
        recipe = _recipe(folder, corpus, stage, f"{bucket}/{name}", f"{bucket}/{TEST}")
        OmegaConf.save(OmegaConf.create(recipe), folder / "recipes" / f"stage{stage}.yaml")
    (folder / "site.sh").write_text(_SITE.format(python=shlex.quote(sys.executable), folder=folder))
    environment = {name: value for name, value in rgw.environment.items() if name not in names}
    environment |= {"AWS_SHARED_CREDENTIALS_FILE": str(home / "credentials"), "SPEAKERLM_SITE": f"{folder}/site.sh"}
    environment["SPEAKERLM_CACHE"] = str(package_cache().absolute())
    return Campaign(folder, bucket, corpus, environment | CPU | {"PYTHONUNBUFFERED": "1"})


def _recipe(folder: Path, corpus: Corpus, stage: int, train: str, test: str) -> dict[str, object]:
    """The tiny recipe over data in the bucket. Micro-batches hold two conversations, so that an epoch has several."""
    steps = STEPS if stage == 1 else 4
    return {
        "extends": str(ROOT / "launch" / "recipes" / "tiny" / f"stage{stage}.yaml"),
        "root": str(folder),
        "model": {name: {"checkpoint": str(corpus.models / name)} for name in ("encoder", "llm")},
        "data": {"train": [{"path": train}], "validation": [{"path": test}], "max_positions": 400, "max_frames": 600},
        "optimizer": {"warmup_steps": 2},
        "trainer": {
            "max_steps": steps,
            "save_every": 8,
            "validate_every": steps,
            "validation_batches": 2,
            "log_every": 1,
        },
    }
