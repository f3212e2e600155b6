"""Audio behind URLs, and what commands write, from prepare to samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.sound.audio import decode, load
from shards.storage import sources
from tests.support.corpora import audio, prepare
from tests.support.s3 import FakeS3, fake_s3


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    monkeypatch.setattr("time.sleep", lambda _: None)
    sources._bucket.cache_clear()
    with fake_s3() as server:
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server
    sources._bucket.cache_clear()


def packed(manifest: Path, out: Path) -> dict[str, np.ndarray]:
    assert main(["pack", str(manifest), str(out), "--no-speakers"]) == 0
    dataset = open_dataset(out)
    found = [read_sample(dataset, 0, row) for row in range(dataset.shards[0].samples)]
    return {sample.key: decode(sample.audio) for sample in found}


def jsonl(path: Path, urls: list[str]) -> None:
    rows = [{"audio_filepath": url, "text": "x", "offset": i, "duration": 1} for url in urls for i in (0, 1)]
    path.write_text("\n".join(map(json.dumps, rows)))


def test_audio_on_s3(s3: FakeS3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = audio(tmp_path / "a.wav", 3)
    s3.objects["speech/a.wav"] = path.read_bytes()
    jsonl(tmp_path / "m.jsonl", ["s3://bucket/speech/a.wav", "s3://bucket/speech/b.wav", "gs://bucket/a.wav"])
    made = prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out", "--name", "c")["m"]
    assert {r.audio for r in made.recordings.values()} == {"s3://bucket/speech/a.wav"}
    assert made.audit["skipped"] == {"recording with unreadable audio": 4}
    assert sum(m == "GET" and "a.wav" in p for m, p, _ in s3.requests) == 1  # two rows of one file
    samples = packed(tmp_path / "out/m", tmp_path / "data")
    wave = load(path)
    for key, first in zip(made.recordings, (0, 16_000), strict=True):
        np.testing.assert_allclose(samples[key], wave[first : first + 16_000], atol=2**-15)
    del s3.objects["speech/a.wav"]
    assert main(["pack", str(tmp_path / "out/m"), str(tmp_path / "gone"), "--no-speakers"]) == 1
    assert "s3://bucket/speech/a.wav: no such object" in capsys.readouterr().err


def test_an_outage_stops_and_skips_nothing(s3: FakeS3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    s3.objects["a.wav"] = audio(tmp_path / "a.wav", 3).read_bytes()
    jsonl(tmp_path / "m.jsonl", ["s3://bucket/a.wav"])
    prepare("jsonl", tmp_path / "m.jsonl", tmp_path / "out", "--name", "c")
    s3.refusal = 400, "<Code>ExpiredToken</Code>"
    pack = ["pack", str(tmp_path / "out/m"), str(tmp_path / "data"), "--no-speakers", "--max-bad-share", "1"]
    assert main(pack) == 1
    assert "s3://bucket/a.wav: the session token has expired" in capsys.readouterr().err
    assert main(["prepare", "jsonl", str(tmp_path / "m.jsonl"), str(tmp_path / "again")]) == 1
    assert "the session token has expired" in capsys.readouterr().err
    s3.refusal = None
    assert main(pack) == 0


def kaldi(root: Path) -> None:
    """Five utterances: of a file, of a command, of a pipe, of one that fails, and of one that is too slow."""
    root.mkdir()
    audio(root / "a.wav", 2)
    audio(root / "b b.wav", 3, rate=8_000)
    lines = {"u1": "a.wav", "u2": "cat 'b b.wav' |", "u3": "cat a.wav | cat - |", "u4": "cat none.wav | cat |"}
    lines["u5"] = "sleep 60 |"
    (root / "wav.scp").write_text("".join(f"{u} {line}\n" for u, line in lines.items()))
    (root / "text").write_text("".join(f"{u} word {u}\n" for u in lines))
    (root / "utt2spk").write_text("".join(f"{u} ann\n" for u in lines))


def test_commands_of_kaldi_are_run_if_allowed(tmp_path: Path) -> None:
    root = tmp_path / "in"
    kaldi(root)
    options = ("--name", "k", "--audio", str(root))
    refused = prepare("kaldi", root, tmp_path / "refused", *options)["in"]
    assert refused.audit["skipped"] == {
        "utterances without audio in wav.scp": 4,
        "wav.scp entry that is a command": 4,
    }
    assert not (tmp_path / "refused/audio").exists()
    for _ in range(2):
        made = prepare("kaldi", root, tmp_path / "out", *options, "--allow-commands", "2")["in"]
        assert {k: r.duration for k, r in made.recordings.items()} == {"u1": 2.0, "u2": 3.0, "u3": 2.0}
        assert made.audit["skipped"] == {"recording with unreadable audio": 2}
        failed, slow = made.audit["examples"]["recording with unreadable audio"]
        assert "'cat none.wav | cat |': exit status 1; stderr: cat: none.wav: No such file" in failed
        assert "'sleep 60 |': not done after 2 s" in slow
        assert len(list((tmp_path / "out/audio").iterdir())) == 2
    samples = packed(tmp_path / "out/in", tmp_path / "data")
    np.testing.assert_allclose(samples["u3"], load(root / "a.wav"), atol=2**-15)
    np.testing.assert_allclose(samples["u2"], load(root / "b b.wav"), atol=2**-14)
