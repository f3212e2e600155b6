"""The README's worked example, command by command, with fewer voices, samples and steps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from shards.cli import main
from shards.corpora import packaged_speech
from shards.weights.fetch import cache_folder
from tests.support.distributed import ROOT
from tests.support.page_commands import page_commands, run_commands

CACHE = cache_folder()
VOICES = ("es-co", "fr-armelle", "zh-gcin3", "zh-gcin5")  # those with the fewest recordings
pytestmark = pytest.mark.timeout(1200)
# Less of everything: the text in the README and what the test runs.
SMALLER = {
    "--count 400": "--count 12",
    "--encoder-steps 400": "--encoder-steps 2",
    "--llm-steps 1000": "--llm-steps 2",
    "trainer.max_steps=20": "trainer.max_steps=2 optimizer.warmup_steps=1",
    "--modes no,match": "--modes no,match --limit 4",
}


def test_the_worked_example_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged_speech, "VOICES", [v for v in packaged_speech.VOICES if v.name in VOICES])
    speech = tmp_path / "speech"
    assert main(["prepare", "packaged-speech", str(CACHE), str(speech)]) == 0
    smaller = SMALLER | {"mine/corpus\n": f"mine/corpus --speech {speech} --meetings 2\n"}
    said = run_commands(page_commands("README.md", "From your data to transcripts", smaller), tmp_path)
    mine = tmp_path / "mine"
    assert '"faults": 0' in said
    rows = json.loads((mine / "scores" / "scores.json").read_text())
    assert {(row["mode"], row["test_set"]) for row in rows} == {("no", "test"), ("match", "test")}
    assert (mine / "model" / "model.safetensors").exists()
    assert list((mine / "transcripts").glob("*.seglst.json"))


def test_the_example_prepares_the_speech_that_it_is_not_given(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("own_data", ROOT / "docs" / "examples" / "own_data.py")
    assert spec is not None
    assert spec.loader is not None
    own_data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own_data)
    called: list[tuple[object, ...]] = []

    def run(*command: object) -> None:
        called.append(command)
        if command[0] == "simulate":
            raise InterruptedError

    own_data.run = run  # type: ignore[attr-defined]
    with pytest.raises(InterruptedError):
        own_data.main([str(tmp_path / "corpus"), "--cache", str(tmp_path)])
    assert called[0] == ("prepare", "packaged-speech", tmp_path, tmp_path / "corpus" / "packages")
    assert called[1][1] == tmp_path / "corpus" / "packages" / "digits"
