"""speakerlm-decode and speakerlm-transcribe with a real vLLM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pipeline.decode.share
from pipeline.export.folder import export
from pipeline.transcribe.cli import main as transcribe
from shards.errors import ScoreError
from tests.support.datasets import make_dataset
from tests.support.decoding import decode_with
from tests.support.training import DIM, finished_run, make_parts

MODES = ("asr", "no", "match", "over")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder, heads=2)
    make_dataset(folder / "test", samples=7, speakers_per_sample=(2, 3), dim=DIM, seed=9)
    export(finished_run(folder), folder / "merged", merge=True)
    return folder


@pytest.fixture(autouse=True)
def cache(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEAKERLM_CACHE", str(parts / "cache"))


def run(parts: Path, out: Path, **options):
    settings = {"n_ov": "2-4", "batch": 3, "max_new_tokens": 12, "device": "cpu", "engine": "vllm", **options}
    return decode_with(parts / "run", parts / "test", out, modes=",".join(MODES), **settings)


@pytest.fixture(scope="module")
def decoded(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("decoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEAKERLM_CACHE", str(parts / "cache"))
        run(parts, out)
    return out


def test_a_test_set_has_the_text_of_transformers(parts: Path, decoded: Path, tmp_path: Path):
    run(parts, tmp_path, engine="transformers")
    for mode in MODES:
        assert (decoded / f"{mode}.jsonl").read_text() == (tmp_path / f"{mode}.jsonl").read_text()
    settings = json.loads((decoded / "decode.json").read_text())["settings"]
    assert settings["engine"]["name"] == "vllm"
    with pytest.raises(ScoreError, match="another engine"):
        run(parts, tmp_path)


def test_an_interrupted_decoding_continues_with_two_processes(
    parts: Path, decoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same bytes as of one process that was not interrupted."""
    real = pipeline.decode.share.write
    asked: list[int] = []

    def write(engine, ready):
        asked.append(len(ready))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(engine, ready)

    monkeypatch.setattr(pipeline.decode.share, "write", write)
    with pytest.raises(KeyboardInterrupt):
        run(parts, tmp_path)
    assert run(parts, tmp_path, rank=1, world=2) is None
    timing = run(parts, tmp_path, rank=0, world=2)
    assert {name: t.clips for name, t in timing.items()} == dict.fromkeys(MODES, 7)
    for mode in MODES:
        assert (tmp_path / f"{mode}.jsonl").read_bytes() == (decoded / f"{mode}.jsonl").read_bytes()


def test_a_recording_has_the_transcript_of_transformers(parts: Path, tmp_path: Path):
    wave = np.random.default_rng(0).normal(0, 0.1, 20 * 16_000).astype(np.float32)
    wave[np.arange(len(wave)) % 32_000 >= 24_000] = 0  # 1.5 s of noise, 0.5 s of silence: turns for the detector
    soundfile.write(tmp_path / "talk.wav", wave, 16_000)
    found = {}
    for engine in ("vllm", "transformers"):
        out = tmp_path / engine
        code = transcribe(
            [str(tmp_path / "talk.wav"), "--model", str(parts / "merged"), "--out", str(out), "--seconds", "3-5",
             "--naming", "none", "--vad", "energy", "--device", "cpu", "--engine", engine]
        )  # fmt: skip
        assert code == 0
        found[engine] = json.loads((out / "talk.json").read_text())
    assert found["vllm"] == found["transformers"]
    assert len(found["vllm"]["chunks"]) >= 3
