"""Runners of diarizers whose libraries are not installed: what they are asked and what they give, and stored output."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pyannote.core import Annotation, Segment

from pipeline.baselines.cascade import packed
from pipeline.baselines.diarizers import load_diarizer, sortformer_turns
from pipeline.baselines.interfaces import DiarizedTurn
from shards.errors import ConfigError
from tests.support.datasets import make_dataset

WAVE = np.full(24_000, 0.25, np.float32)
TURNS = [DiarizedTurn("a", 0.0, 1.0), DiarizedTurn("b", 0.5, 1.5)]


def provide(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Put a module, and empty packages around it, where it is imported from."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        path = ".".join(parts[:i])
        if path not in sys.modules or i == len(parts):
            monkeypatch.setitem(sys.modules, path, ModuleType(path))
    for member, value in members.items():
        setattr(sys.modules[name], member, value)


def annotation() -> Annotation:
    found = Annotation()
    for turn in TURNS:
        found[Segment(turn.start, turn.end), turn.speaker] = turn.speaker
    return found


@pytest.mark.parametrize(
    ("source", "version"),
    [("", 3), ("", 4), ("@pyannote/speaker-diarization-community-1", 4)],
)
def test_pyannote_is_asked_as_its_versions_want(monkeypatch: pytest.MonkeyPatch, source: str, version: int):
    asked: dict[str, Any] = {}

    class Pipeline:
        def to(self, device: torch.device):
            assert isinstance(device, torch.device)
            return self

        def __call__(self, file: dict[str, Any], num_speakers: int | None = None):
            assert file["waveform"].shape == (1, 24_000)
            asked.update(rate=file["sample_rate"], num_speakers=num_speakers)
            exclusive = Annotation()
            record = SimpleNamespace(speaker_diarization=annotation(), exclusive_speaker_diarization=exclusive)
            return annotation() if version == 3 else record

    class Old(Pipeline):
        @classmethod
        def from_pretrained(cls, checkpoint: str, hparams_file: str | None = None, use_auth_token: str | None = None):
            asked.update(checkpoint=checkpoint, token=use_auth_token)
            return cls()

    class New(Pipeline):
        @classmethod
        def from_pretrained(cls, checkpoint: str, hparams_file: str | None = None, token: str | None = None):
            asked.update(checkpoint=checkpoint, token=token)
            return cls()

    provide(monkeypatch, "pyannote.audio", Pipeline=Old if version == 3 else New)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert load_diarizer(f"pyannote{source}", count=2).turns(WAVE) == TURNS
    expected = source[1:] or "pyannote/speaker-diarization-3.1"
    assert asked == {"checkpoint": expected, "token": "secret", "rate": 16_000, "num_speakers": 2}


@pytest.mark.parametrize("count", [None, 2])
def test_3d_speaker_is_asked_through_modelscope(monkeypatch: pytest.MonkeyPatch, count: int | None):
    asked: list[dict[str, Any]] = []

    def pipeline(**made: Any):
        asked.append(made)

        def diarize(audio: np.ndarray, **known: Any):
            asked.append({"samples": len(audio), **known})
            return {"text": [[0.5, 1.5, 1], [0.0, 1.0, 0]]}

        return diarize

    provide(monkeypatch, "modelscope.pipelines", pipeline=pipeline)
    found = load_diarizer("3d-speaker", "cuda:0", count=count).turns(WAVE)
    assert found == [DiarizedTurn("0", 0.0, 1.0), DiarizedTurn("1", 0.5, 1.5)]
    model = "iic/speech_campplus_speaker-diarization_common"
    assert asked == [
        {"task": "speaker-diarization", "model": model, "device": "gpu"},
        {"samples": 24_000} | ({} if count is None else {"oracle_num": 2}),
    ]


@pytest.mark.parametrize("size", ["large", "base"])
def test_diarizen_and_sortformer_get_a_file(monkeypatch: pytest.MonkeyPatch, size: str):
    read: list[tuple[str, int, int]] = []

    def heard(path: str) -> None:
        wave, rate = soundfile.read(path)
        read.append((loaded[-1], rate, len(wave)))

    loaded: list[str] = []

    class DiariZenPipeline:
        @classmethod
        def from_pretrained(cls, repo_id: str):
            loaded.append(repo_id)
            return cls()

        def __call__(self, in_wav: str, sess_name: str | None = None):
            heard(in_wav)
            return annotation()

    class SortformerEncLabelModel:
        @classmethod
        def from_pretrained(cls, model_name: str, map_location: str):
            loaded.append(model_name)
            return cls()

        @classmethod
        def restore_from(cls, restore_path: str, map_location: str):
            loaded.append(restore_path)
            return cls()

        def eval(self):
            return self

        def diarize(self, audio: list[str], batch_size: int):
            heard(*audio)
            return [["0.500 1.500 speaker_1", "0.000 1.000 speaker_0"]]

    provide(monkeypatch, "diarizen.pipelines.inference", DiariZenPipeline=DiariZenPipeline)
    provide(monkeypatch, "nemo.collections.asr.models", SortformerEncLabelModel=SortformerEncLabelModel)
    name = f"BUT-FIT/diarizen-wavlm-{size}-s80-md"
    assert load_diarizer("diarizen" if size == "large" else f"diarizen@{name}").turns(WAVE) == TURNS
    model = "nvidia/diar_sortformer_4spk-v1" if size == "large" else "models/mine.nemo"
    diarizer = load_diarizer("sortformer" if size == "large" else f"sortformer@{model}")
    assert diarizer.turns(WAVE) == [DiarizedTurn("speaker_0", 0.0, 1.0), DiarizedTurn("speaker_1", 0.5, 1.5)]
    assert read == [(name, 16_000, 24_000), (model, 16_000, 24_000)]


@pytest.mark.parametrize("name", ["diarizen", "sortformer"])
def test_a_number_of_people_is_refused_where_the_system_takes_none(name: str):
    with pytest.raises(ConfigError, match="does not take the number of people: omit --speakers"):
        load_diarizer(name, count=2)


@pytest.mark.parametrize("output", [[], [[], []], "0 1 speaker_0", [["0 1 somebody"]], [["0.1 speaker_0"]], [[(0, 1)]]])
def test_other_output_of_sortformer_is_refused(output: Any):
    with pytest.raises(ConfigError, match="Sortformer gave"):
        sortformer_turns(output)


LINES = {
    "3d-speaker": "SPEAKER a 0 {start:.3f} {duration:.3f} <NA> <NA> {number} <NA> <NA>\n",
    "diarizen": "SPEAKER a 1 {start:.3f} {duration:.3f} <NA> <NA> {number} <NA> <NA>\n",
    "nemo": "SPEAKER a 1   {start:.3f}   {duration:.3f} <NA> <NA> speaker_{number} <NA> <NA>\n",
    "pyannote": "SPEAKER a 1 {start:.3f} {duration:.3f} <NA> <NA> SPEAKER_0{number} <NA> <NA>\n",
}
LISTED = [{"start": t.start, "end": t.end, "speaker": f"SPEAKER_0{i}"} for i, t in enumerate(TURNS)]
# What each system writes to files, as its own command or its documentation has it.
WRITTEN = {
    "sortformer": ("txt", "[['0.00 1.00 speaker_0', '0.50 1.50 speaker_1']]"),
    "community-1": ("json", json.dumps({"diarization": LISTED, "exclusive_diarization": LISTED[:1]})),
} | {
    system: (
        "rttm",
        "".join(line.format(start=t.start, duration=t.end - t.start, number=i) for i, t in enumerate(TURNS)),
    )
    for system, line in LINES.items()
}


@pytest.mark.parametrize("system", WRITTEN)
def test_stored_turns_of_each_system(tmp_path: Path, system: str):
    suffix, text = WRITTEN[system]
    (tmp_path / f"a.{suffix}").write_text(text)
    found = load_diarizer(f"turns@{tmp_path}").turns(WAVE, "a")
    assert [(t.speaker[-1], t.start, t.end) for t in found] == [("0", 0.0, 1.0), ("1", 0.5, 1.5)]


def test_of_a_folder_with_rttm_and_json_the_rttm_is_read(tmp_path: Path):
    """pyannote's command writes both."""
    for system in ("pyannote", "community-1"):
        suffix, text = WRITTEN[system]
        (tmp_path / f"a.{suffix}").write_text(text)
    assert len(load_diarizer(f"turns@{tmp_path}").turns(WAVE, "a")) == 2


def test_a_clip_without_speech_leaves_an_empty_file(tmp_path: Path):
    for system in ("sortformer", "pyannote"):
        suffix, text = WRITTEN[system]
        (folder := tmp_path / system).mkdir()
        (folder / f"a.{suffix}").write_text(text)
        (folder / f"0.{suffix}").write_text("")
        found = load_diarizer(f"turns@{folder}")
        assert (len(found.turns(WAVE, "a")), found.turns(WAVE, "0")) == (2, [])


def test_audio_files_out_of_shards_are_called_like_clips(tmp_path: Path):
    """A diarizer in another environment gets them by ``tar -xf … '*.flac'``, and names its output after them."""
    make_dataset(tmp_path, samples=3, speakers_per_sample=(2, 2), dim=8, seed=9)
    (shard,) = (tmp_path / "shards").glob("*.tar")
    with tarfile.open(shard) as tar:
        names = [n for n in tar.getnames() if n.endswith(".flac")]
    assert sorted(Path(n).stem for n in names) == list(packed(str(tmp_path)).keys)
