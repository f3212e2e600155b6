"""Qwen3-ASR and its aligner through transformers, on tiny checkpoints of the published layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.baselines.cli import main
from pipeline.baselines.interfaces import Word
from pipeline.baselines.qwen3_asr import ALIGNER, LONGEST_S, Qwen3Asr, stretches
from pipeline.transcribe.vad import WINDOW, WINDOW_S, Energy
from shards.errors import ConfigError
from tests.support.qwen3_asr_folders import aligner_folder, asr_folder

TONE = (0.3 * np.sin(np.arange(25_600) / 9)).astype(np.float32)  # 1.6 s
PAUSE = np.zeros(25_600, np.float32)
WAVE = np.concatenate([PAUSE, TONE, PAUSE, TONE, PAUSE])
STARTS = [1.6, 4.8]
SAID = "Hi, 好."


@pytest.fixture(scope="module")
def asr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asr_folder(tmp_path_factory.mktemp("qwen") / "asr", TONE, f"language English<asr_text>{SAID}")


@pytest.fixture(scope="module")
def aligner(asr: Path) -> Path:
    return aligner_folder(asr.parent / "aligner", TONE, SAID, [1, 5, 6, 12])


@pytest.mark.parametrize("language", [None, "en", "sw"])  # the last is one that the model does not know
def test_words_have_the_aligner_s_times_in_each_stretch_of_speech(asr: Path, aligner: Path, language: str | None):
    words = Qwen3Asr(f"{asr},{aligner}", Energy).words(WAVE, language)
    assert "".join(w.text for w in words) == f" {SAID} {SAID}"
    assert [w.text for w in words] == [" Hi, ", "好."] * 2
    expected = [(start + a, start + b) for start in STARTS for a, b in ((0.08, 0.40), (0.48, 0.96))]
    for word, (start, end) in zip(words, expected, strict=True):
        assert (word.start, word.end) == pytest.approx((start, end), abs=0.1)


def test_the_text_is_that_of_the_library_s_own_request(asr: Path):
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    processor, model = AutoProcessor.from_pretrained(asr), AutoModelForMultimodalLM.from_pretrained(asr).eval()
    asked = processor.apply_transcription_request(TONE)
    ids = model.generate(**asked, max_new_tokens=64)[:, asked["input_ids"].shape[1] :]
    assert processor.decode(ids, return_format="parsed")[0] == {"language": "English", "transcription": SAID}
    assert Qwen3Asr(f"{asr},none", Energy)._heard(TONE, None) == (SAID, "English")


def test_without_an_aligner_words_are_spread_over_the_stretch_and_the_name_says_so(asr: Path):
    recogniser = Qwen3Asr(f"{asr},none", Energy)
    assert recogniser.id == f"qwen3-asr ({asr}, times in proportion)"
    words = recogniser.words(WAVE, None)
    for (start, end), (hi, good) in zip(stretches(WAVE, Energy()), (words[:2], words[2:]), strict=True):
        edge = start + (end - start) * 2 / 3  # two letters of three
        assert [hi.start, hi.end, good.start, good.end] == pytest.approx([start, edge, edge, end], abs=1e-3)


def test_a_language_without_an_aligner_gets_one_warning(asr: Path, aligner: Path, caplog):
    recogniser = Qwen3Asr(f"{asr},{aligner}", Energy)
    for _ in range(2):
        assert recogniser._timed(TONE, " ab cd", "Arabic") == [Word(" ab ", 0.0, 0.8), Word("cd", 0.8, 1.6)]
    assert [m.partition(": ")[2] for m in caplog.messages if "spread" in m] == [
        "words of Arabic are spread over stretches of speech: the aligner does not know it"
    ]
    assert recogniser._timed(TONE, " …", "English") == []


def test_silence_has_no_words(asr: Path):
    recogniser = Qwen3Asr(f"{asr},none", Energy)
    assert [recogniser.words(np.zeros(n, np.float32), None) for n in (0, 100, 16_000)] == [[], [], []]


class Chances:
    """A detector with given probabilities, one for each 32 ms."""

    def __init__(self, chances: np.ndarray) -> None:
        self.chances = chances

    def probabilities(self, wave: np.ndarray) -> np.ndarray:
        return self.chances[: len(wave) // WINDOW]

    def reset(self) -> None: ...


def test_speech_without_a_pause_is_cut_where_it_is_least_probable():
    chances = np.ones(3000)
    chances[[800, 2500]] = 0.4  # a dip under no threshold, after 25.6 s
    found = stretches(np.zeros(3000 * WINDOW), Chances(chances))
    assert found[0] == pytest.approx((0.0, 800 * WINDOW_S))
    assert [a[1] for a in found[:-1]] == [b[0] for b in found[1:]]
    assert all(b - a <= LONGEST_S for a, b in found)
    assert found[-1][1] == pytest.approx(96.0)


def test_short_pauses_do_not_part_stretches():
    chances = np.ones(200)
    chances[[*range(50, 60), *range(100, 140)]] = 0  # 0.32 s and 1.28 s
    assert stretches(np.zeros(200 * WINDOW), Chances(chances)) == [
        (0.0, pytest.approx(3.2, abs=0.05)), (pytest.approx(4.48, abs=0.05), pytest.approx(6.4)),
    ]  # fmt: skip


def test_checkpoints_of_another_layout_are_refused(asr: Path, aligner: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"qwen3-asr \({tmp_path}, times by {ALIGNER}\) could not be loaded"):
        Qwen3Asr(str(tmp_path), Energy)
    with pytest.raises(ConfigError, match="weights that do not fit"):
        Qwen3Asr(f"{asr},{asr}", Energy)  # a recogniser has no head for times
    from safetensors.torch import load_file, save_file

    for file in asr.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = {f"thinker.{k}": v for k, v in load_file(tmp_path / "model.safetensors").items()}  # Qwen's own layout
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"names without -hf are in the layout of another library"):
        Qwen3Asr(f"{tmp_path},{aligner}", Energy)


def test_a_cascade_of_stored_turns_and_qwen3_asr(asr: Path, aligner: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("pipeline.transcribe.load_vad.load_vad", lambda *a, **k: Energy())
    soundfile.write(audio := tmp_path / "a.wav", WAVE, 16_000)
    lines = [f"SPEAKER a 0 {start} 1.6 <NA> <NA> {who} <NA> <NA>" for start, who in zip(STARTS, "10", strict=True)]
    (tmp_path / "a.rttm").write_text("\n".join(lines))
    command = ["run", str(audio), str(tmp_path / "out"), "--diarizer", f"turns@{tmp_path / 'a.rttm'}"]
    assert main([*command, "--asr", f"qwen3-asr@{asr},{aligner}", "--device", "cpu"]) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "no.jsonl").read_text().splitlines()]
    assert [(s["speaker"], s["text"]) for s in row["hypothesis"]] == [("spk0", SAID), ("spk1", SAID)]
