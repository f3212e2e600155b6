"""A recipe that takes the speaker vectors of another extractor than the one that packed the data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.decode.jobs import DecodeJob
from pipeline.decode.test_set import open_test_set
from pipeline.preflight.checks import all_checks
from pipeline.prompts import Mode, PromptTokenizer
from pipeline.ranks.launch import Ranks
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import DataConfig, DatasetConfig, Recipe, RegistrationConfig, TrainerConfig
from pipeline.train.stage_data import StageData
from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.errors import ConfigError, DataError
from shards.voices.features import log_mel, unit_norm
from tests.support.damage import Damage
from tests.support.datasets import make_dataset
from tests.support.extractors import add_extractor
from tests.support.manifests import make_manifest
from tests.support.speech import PitchExtractor
from tests.support.tiny import TEXTS, TinyBase, make_tokenizer, model_config

ROOT = Path(__file__).resolve().parents[4]
RANKS = Ranks(0, 1, 0, torch.device("cpu"))


class Mean:
    """The mean spectrum of a clip."""

    id, sha256, dim = "mean-of-frames", "1" * 64, 80

    def embed(self, waves):
        return self.embed_features([log_mel(w) for w in waves])

    def embed_features(self, features):
        return unit_norm(np.stack([np.exp(f).mean(0) for f in features]))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A dataset packed with one extractor, and vectors of another beside it."""
    folder = tmp_path_factory.mktemp("data")
    make_manifest(folder / "m", 9, seconds=2.5)
    with pytest.MonkeyPatch.context() as patch:
        add_extractor(patch, folder / "site/pitch", "pitch", PitchExtractor())
        add_extractor(patch, folder / "site/mean", "mean", Mean())
        command = ["pack", str(folder / "m"), str(folder / "o"), "--samples-per-shard", "4", "--extractor", "pitch"]
        command += ["--max-self-enrolled", "1"]
        assert main(command) == 0
        assert main(["embed", str(folder / "o"), "--manifest", str(folder / "m"), "--extractor", "mean"]) == 0
    return folder


@pytest.fixture(scope="module")
def tokenizer(packed):
    return PromptTokenizer.from_folder(make_tokenizer(packed / "llm", TEXTS))


@pytest.fixture(autouse=True)
def alone():
    """A group of one process: opening a stage's data ends in a barrier."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def recipe(packed, extractor, named):
    share = DatasetConfig(path=str(packed / "o"), extractor=extractor)
    model = model_config(TinyBase(packed / "encoder", packed / "llm"), speaker_dim=80)
    model.extractor = named
    data = DataConfig(train=[share], validation=[share], registration=RegistrationConfig(max_distractors=2), workers=0)
    return Recipe(name="x", stage=4, output="x", model=model, data=data, trainer=TrainerConfig(validation_batches=50))


def test_batches_hold_the_vectors_of_the_extractor_that_the_recipe_names(packed, tokenizer):
    data = StageData(recipe(packed, "mean", "mean-of-frames"), RANKS, tokenizer)
    dataset = open_dataset(packed / "o", extractor="mean")
    known = {
        s.key: s.embeddings for i in range(3) for s in (read_sample(dataset, i, r) for r in range(_rows(dataset, i)))
    }
    matched = [b for step, _ in data.validation() for b in step if b.weight and b.mode is Mode.MATCH]
    assert matched
    for batch in matched:
        rows = np.concatenate([known[key] for key in batch.keys]).astype(np.float32)
        assert batch.speaker_vectors.shape == rows.shape
        assert sorted(map(tuple, batch.speaker_vectors.numpy())) == sorted(map(tuple, rows))


def _rows(dataset, shard):
    return dataset.shards[shard].samples


def test_another_extractor_than_the_model_was_made_for_is_refused(packed, tokenizer):
    with pytest.raises(
        ConfigError, match=r"speaker vectors are of pitch, the recipe's model.extractor is mean-of-frames"
    ):
        StageData(recipe(packed, None, "mean-of-frames"), RANKS, tokenizer)
    with pytest.raises(ConfigError, match="speaker vectors are of mean-of-frames"):
        StageData(recipe(packed, "mean", "pitch"), RANKS, tokenizer)


def test_preflight_looks_at_the_vectors_that_training_takes(packed):
    for extractor, named, verdict in (("mean", "mean-of-frames", "ok"), (None, "mean-of-frames", "FAIL")):
        found = [c for c in all_checks(recipe(packed, extractor, named), 1, None, 1) if c.what == "dataset"]
        assert [c.verdict for c in found] == [verdict] * 2, found


def test_decoding_takes_the_vectors_that_the_run_was_trained_with(packed):
    jobs = [DecodeJob("over", (1, 2), "over")]
    dataset = open_test_set(str(packed / "o"), None, recipe(packed, "mean", "mean-of-frames"), jobs)
    assert dataset.extractor_id() == "mean-of-frames"
    assert read_sample(dataset, 0, 0).embeddings.shape[1] == dataset.speakers.dim == 80
    assert open_test_set(str(packed / "o"), None, recipe(packed, "mean", "pitch"), jobs).extractor_id() == "pitch"
    with pytest.raises(DataError, match="embeddings are of 'mean-of-frames', the run was trained with 'pitch'"):
        open_test_set(str(packed / "o"), "mean", recipe(packed, "mean", "pitch"), jobs)


@pytest.mark.parametrize("lost", ["shards/m-000001.embeddings-mean.parquet", "speakers-mean.npy"])
def test_vectors_that_are_not_there_stop_the_run_before_it_begins(packed, tokenizer, lost):
    path = packed / "o" / lost
    data = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(
            ConfigError, match=r"1 files are missing, such as .*speakerlm-shards embed .* --extractor mean"
        ):
            StageData(recipe(packed, "mean", "mean-of-frames"), RANKS, tokenizer)
    finally:
        path.write_bytes(data)


def test_a_dataset_without_its_speaker_bank_stops_a_stage_that_registers(packed, tokenizer, tmp_path):
    """As an incomplete copy has none: Over would silently be Match."""
    shutil.copytree(packed / "o", tmp_path / "o")
    (tmp_path / "o" / "speakers.parquet").unlink()
    copied = recipe(packed, None, "pitch")
    copied.data.train = copied.data.validation = [DatasetConfig(path=str(tmp_path / "o"))]
    with pytest.raises(ConfigError, match=r"/o: has no speaker bank, and stage 4 registers speakers"):
        StageData(copied, RANKS, tokenizer)
    copied.stage = 1
    next(StageData(copied, RANKS, tokenizer).train(None))


def test_validation_does_not_read_the_noise_folder(packed, tokenizer):
    made = recipe(packed, "mean", "mean-of-frames")
    made.data.augment.noise = "/nowhere"
    data = StageData(made, RANKS, tokenizer)
    assert next(iter(data.validation()))
    with pytest.raises(ConfigError, match="/nowhere"):
        data.train(None)


def test_samples_that_validation_cannot_read_are_warned_about(tmp_path, caplog):
    tokenizer = PromptTokenizer.from_folder(make_tokenizer(tmp_path / "llm", TEXTS))
    dataset = make_dataset(tmp_path / "d", samples=24, samples_per_shard=8)
    for row in range(4):
        Damage(dataset, 1, row).flip_payload_byte()
    settings = load_recipe(
        ROOT / "launch" / "recipes" / "tiny" / "stage2.yaml",
        ["data.workers=0", f"model.extractor={dataset.extractor_id()}"],
    )
    settings.data.train = settings.data.validation = [DatasetConfig(path=str(tmp_path / "d"))]
    steps = list(StageData(settings, RANKS, tokenizer).validation())
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "replaced" in r.getMessage()]
    assert len(lines) == sum(replaced for _, replaced in steps) > 0
    assert all(line.startswith("validation step ") for line in lines), lines
