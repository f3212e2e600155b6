"""What a chain of jobs needs, as small as can be: a corpus of tones, base models, recipes, a site file."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from shards.manifests import Recording, SpeakerInfo, write_manifest
from shards.sample import SAMPLE_RATE, Segment
from tests.support.distributed import CPU
from tests.support.rgw import Gateway

STEPS = 60  # of stage 1, long enough for something to happen to it
TEXTS = ("今天天气怎么样", "你好世界", "然后呢", "谁在什么时候说了什么", "hi how are you", "yes")
EXTRACTOR = "campplus_cn_en_common"
_SITE = """
PYTHON={python}
LOGS={folder}/logs
PACK_TASKS=2
PACK_SBATCH=(--ntasks=1 --time=20)
TRAIN_SBATCH=(--nodes=2 --ntasks-per-node=1 --time=30 --signal=USR1@60)
SCORE_SBATCH=(--ntasks=1 --time=30)
MAX_RESTARTS=3
DECODE=(--modes no,match --max-new-tokens 12 --batch 6)
NODECHECK=(--disk-gb 0.1 --skew 2.0)
"""


@dataclass(frozen=True)
class Campaign:
    """Its files."""

    folder: Path
    bucket: str  # URL
    environment: dict[str, str]  # of whoever submits

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


def make_campaign(folder: Path, rgw: Gateway) -> Campaign:
    """Write everything but the packed data."""
    bucket = f"s3://{rgw.new_bucket()}"
    home, names = folder / "home", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    home.mkdir()
    (folder / "logs").mkdir()
    credentials = [f"{name.lower()} = {rgw.environment[name]}" for name in names]
    (home / "credentials").write_text("\n".join(["[default]", *credentials]) + "\n")
    lines = []
    for name, count, seed in (("train", 24, 1), ("test", 6, 2)):
        make_manifest(folder / "manifests" / name, count, seed, "train" if name == "train" else "test")
        lines.append(f"{folder}/manifests/{name} {bucket}/{name} --name {name} --samples-per-shard {count // 3}")
    (folder / "corpora.txt").write_text("# manifest, dataset, options\n" + "\n".join(lines) + "\n")
    _recipes(folder, bucket)
    (folder / "site.sh").write_text(_SITE.format(python=shlex.quote(sys.executable), folder=folder))
    environment = {name: value for name, value in rgw.environment.items() if name not in names}
    environment |= {"AWS_SHARED_CREDENTIALS_FILE": str(home / "credentials"), "SPEAKERLM_SITE": f"{folder}/site.sh"}
    return Campaign(folder, bucket, environment | CPU | {"PYTHONUNBUFFERED": "1"})


def make_manifest(folder: Path, count: int, seed: int, split: str) -> None:
    """Recordings of two speakers who take turns: tones of their own pitch over noise, 1.5–3 s."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    recordings = []
    for number in range(count):
        key = f"{split}-{number:03d}"
        length = int(rng.uniform(1.5, 3.0) * SAMPLE_RATE)
        half = length // 2
        who = [int(s) for s in rng.choice(6, 2, replace=False)]
        time = np.arange(length) / SAMPLE_RATE
        pitch = np.where(np.arange(length) < half, 120 + 40 * who[0], 120 + 40 * who[1])
        wave = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.01 * rng.standard_normal(length)
        soundfile.write(folder / f"{key}.flac", wave, SAMPLE_RATE, subtype="PCM_16")
        cut, end = round(half / SAMPLE_RATE, 3), round(length / SAMPLE_RATE, 3)
        spans = ((0.0, cut), (cut, end))
        segments = tuple(
            Segment(f"tones:S{s}", *span, TEXTS[int(rng.integers(len(TEXTS)))])
            for s, span in zip(who, spans, strict=True)
        )
        recordings.append(
            Recording(key, "tones", split, f"{split}-s{number // 2}", "zh", str(folder / f"{key}.flac"), segments)
        )
    write_manifest(folder, recordings, [SpeakerInfo(f"tones:S{s}", "tones", "zh") for s in range(6)], {})


def _recipes(folder: Path, bucket: str) -> None:
    """The tiny recipe four times; stage 1 has STEPS steps, the others four."""
    from pipeline.config import DatasetConfig, save_recipe
    from tests.support.tiny import make_base
    from tests.support.training import tiny_recipe

    make_base(folder / "base")
    (folder / "recipes").mkdir()
    for stage in (1, 2, 3, 4):
        steps = STEPS if stage == 1 else 4
        output = folder / "exp" / f"stage{stage}"
        recipe = tiny_recipe(
            folder, output, stage, dropout=0.1, max_steps=steps, save_every=20, validate_every=STEPS, log_every=1
        )
        recipe.trainer.timeout_seconds = 300.0
        recipe.init_from = str(folder / "exp" / f"stage{stage - 1}") if stage > 1 else None
        recipe.model.speaker_dim, recipe.model.extractor = 192, EXTRACTOR
        recipe.data.train = [DatasetConfig(path=f"{bucket}/train")]
        recipe.data.validation = [DatasetConfig(path=f"{bucket}/test")]
        recipe.data.micro_batches_per_step, recipe.data.max_positions = 2, 250
        recipe.data.workers = 1
        save_recipe(recipe, folder / "recipes" / f"stage{stage}.yaml")
