"""AliMeeting through prepare, clips and pack, with enrolment speech from the headsets."""

import json
from pathlib import Path

import numpy as np
import soundfile

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.manifests.manifest import read_manifest
from shards.sound.audio import decode
from tests.support.corpora import grid, prepare
from tests.support.extractors import add_extractor
from tests.support.manifests import tone
from tests.support.speech import PitchExtractor

PITCH = {"SPK0093": 200, "SPK0094": 700, "SPK0095": 1100}


def meeting(root: Path, session: str, cast: list[str], seconds: int) -> None:
    """Turns of 2 s every 2.5 s, each speaker a tone; eight far-field channels, the first one the loudest."""
    tracks = {s: np.zeros(seconds * 16_000) for s in cast}
    marks: dict[str, list[tuple[float, float, str]]] = {s: [] for s in cast}
    for turn, start in enumerate(np.arange(0.5, seconds - 3, 2.5)):
        speaker = cast[turn % len(cast)]
        first = round(start * 16_000)
        tracks[speaker][first : first + 32_000] = tone(2.0, pitch=PITCH[speaker], seed=turn)
        marks[speaker].append((float(start), float(start) + 2.0, f"第{turn}句"))
    far = sum(tracks.values()) * 0.3
    gains = 1 / np.arange(1, 9)
    audio = root / "Train_Ali_far/audio_dir" / f"{session}_MS002.wav"
    audio.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(audio, far[:, None] * gains, 16_000)
    grid(root / f"Train_Ali_far/textgrid_dir/{session}.TextGrid", {f"F_{s}": m for s, m in marks.items()}, seconds)
    for speaker in cast:
        name = f"{session}_F_{speaker}"
        near = root / "Train_Ali_near/audio_dir" / f"{name}.wav"
        near.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(near, tracks[speaker], 16_000)
        grid(root / f"Train_Ali_near/textgrid_dir/{name}.TextGrid", {speaker: marks[speaker]}, seconds)


def test_prepare_clips_and_pack_alimeeting(tmp_path: Path, monkeypatch, capsys) -> None:
    meeting(tmp_path / "in", "R0003_M0046", ["SPK0093", "SPK0094"], 120)
    meeting(tmp_path / "in", "R0004_M0047", ["SPK0093", "SPK0095"], 100)
    add_extractor(monkeypatch, tmp_path / "site", "pitch", PitchExtractor())
    made = prepare("alimeeting", tmp_path / "in", tmp_path / "m")
    assert main(["clips", str(tmp_path / "m/train-far"), str(tmp_path / "clips")]) == 0
    clips = list(read_manifest(tmp_path / "clips"))
    out = str(tmp_path / "packed")
    capsys.readouterr()
    command = ["pack", str(tmp_path / "clips"), out, "--enrol", str(tmp_path / "m/train-near"), "--workers", "1"]
    assert main([*command, "--name", "ali", "--extractor", "pitch"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["samples"], result["self_enrolled"], result["quarantined"]) == (len(clips), 0, 0)
    dataset = open_dataset(out)
    samples = [read_sample(dataset, 0, row) for row in range(len(clips))]
    spoken = sorted(s.text for x in samples for s in x.segments)
    assert spoken == sorted(t for key in made["train-far"].recordings for _, t in made["train-far"].texts(key))
    for sample in samples:
        wave = decode(sample.audio)
        assert np.sqrt(np.mean(wave**2)) > 0.02  # the first channel, not one of the softer ones
        assert sample.embeddings is not None
        for speaker, vector in zip(sample.speakers, sample.embeddings, strict=True):
            assert vector.argmax() == PITCH[speaker.rpartition(":")[2]] // 200  # bands of 200 Hz
    assert dataset.speakers is not None
    assert dataset.speakers.sessions[dataset.speakers.row("alimeeting:SPK0093")] == ["R0003_M0046", "R0004_M0047"]
    assert main(["verify", out]) == 0
