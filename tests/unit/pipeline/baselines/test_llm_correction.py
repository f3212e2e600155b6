"""Correction by an LLM: what is asked, what counts, words kept, data for fine-tuning; an endpoint over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.baselines.cli import main
from pipeline.baselines.llm import Endpoint, Transformers, load_llm
from pipeline.baselines.llm_correction import INSTRUCTION, compare, correct, pairs, questions
from pipeline.baselines.speaker_transfer import transfer
from pipeline.evaluation.records import SegLstRow
from pipeline.evaluation.scores import score_decoded
from shards.errors import ConfigError, ModelError
from tests.support.http_server import Step, scripted
from tests.support.speech import package_cache


def turn(speaker: str, text: str, start: float | None = None, end: float | None = None) -> SegLstRow:
    return SegLstRow("s", speaker, text, start, end)


class Says:
    """A model that gives this answer, or what a function makes of the question."""

    id = "says"

    def __init__(self, answer: str | Callable[[str], str]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def ask(self, system: str, user: str, most_tokens: int) -> str:
        self.asked.append(user)
        return self.answer if isinstance(self.answer, str) else self.answer(user)


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    """One clip: the last word of the first speaker was given to the second."""
    folder = tmp_path / "cascade"
    folder.mkdir()
    row = {
        "key": "s", "corpus": "c", "split": "test", "mode": "no", "n_ov": None, "names": [], "duration": 4.0,
        "raw": "spk0 [0.00, 1.50]: how are\nspk1 [1.50, 4.00]: you fine thanks",
        "reference": [
            {"speaker": "spk0", "start": 0.0, "end": 2.0, "text": "how are you"},
            {"speaker": "spk1", "start": 2.0, "end": 4.0, "text": "fine thanks"},
        ],
    }  # fmt: skip
    (folder / "no.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def test_the_model_sees_the_paper_s_prompt_and_lines_without_times(cascade: Path, tmp_path: Path):
    model = Says("spk0: how are you\nspk1: fine thanks")
    correct(cascade, tmp_path / "out", model)
    assert model.asked == [f"{INSTRUCTION}\n\nspk0: how are\nspk1: you fine thanks"]
    before, after = compare(cascade, tmp_path / "out", "en")
    assert (before["cer"], after["cer"], after["cpcer"]) == (0, 0, 0)
    assert before["cpcer"] > 0


def test_what_a_model_makes_up_raises_cer_and_cannot_where_words_are_kept(cascade: Path, tmp_path: Path):
    model = Says("Sure! Here it is:\nspk0: how are you my dear friend\nspk1: fine thanks")
    correct(cascade, tmp_path / "free", model)
    correct(cascade, tmp_path / "kept", model, keep_words=True)
    before, free = compare(cascade, tmp_path / "free", "en")
    (kept,) = score_decoded(tmp_path / "kept", normaliser="en")
    assert free["cer"] > before["cer"] == 0
    assert (kept["cer"], kept["cpcer"]) == (0, 0)
    row = json.loads((tmp_path / "kept" / "no.jsonl").read_text())
    assert row["raw"] == "spk0 [0.00, 1.50]: how are\nspk0 [1.50, 2.00]: you\nspk1 [2.00, 4.00]: fine thanks"
    assert row["answer"].startswith("Sure!")


def test_words_without_times_are_kept_too(cascade: Path, tmp_path: Path):
    file = cascade / "no.jsonl"
    row = json.loads(file.read_text()) | {"raw": "spk0: how are\nspk1 [1.50, 1.20]: you fine thanks"}
    file.write_text(json.dumps(row) + "\n")
    correct(cascade, tmp_path / "kept", Says("spk0: something completely different"), keep_words=True)
    found = json.loads((tmp_path / "kept" / "no.jsonl").read_text())
    assert "different" not in found["raw"]
    assert " ".join(t["text"] for t in found["hypothesis"]) == "how are you fine thanks"
    (kept,) = score_decoded(tmp_path / "kept", normaliser="en")
    assert kept["cer"] == 0


def test_a_long_transcript_is_asked_in_parts():
    said = [turn(f"spk{i % 2}", "word " * 20) for i in range(10)]
    parts = questions(said, most=250)
    assert len(parts) == 5
    assert "\n".join(p.removeprefix(f"{INSTRUCTION}\n\n") for p in parts).count("word") == 200


def test_transfer_keeps_words_and_labels():
    given = [turn("spk0", "how are", 0, 1), turn("spk1", "you fine", 1, 2)]
    other = [turn("B", "How are you?"), turn("A", "I am fine")]
    assert [(s.speaker, s.text) for s in transfer(given, other)] == [
        ("spk0", "how are"), ("spk0", "you"), ("spk1", "fine"),
    ]  # fmt: skip
    assert transfer(given, []) == given
    three = transfer([turn("spk0", "a b c")], [turn("x", "a"), turn("y", "b"), turn("z", "c")])
    assert sorted(s.speaker for s in three) == ["spk0", "spk1", "spk2"]
    chinese = transfer([turn("spk0", "你好吗好")], [turn("x", "你好吗"), turn("y", "好")])
    assert [(s.speaker, s.text) for s in chinese] == [("spk0", "你好吗"), ("spk1", "好")]


def test_pairs_for_fine_tuning_have_the_cascade_s_words_and_the_reference_s_speakers(cascade: Path, tmp_path: Path):
    assert pairs(cascade, tmp_path / "pairs.jsonl") == 1
    line = json.loads((tmp_path / "pairs.jsonl").read_text())
    assert [m["role"] for m in line["messages"]] == ["system", "user", "assistant"]
    assert line["messages"][1]["content"].endswith("spk0: how are\nspk1: you fine thanks")
    assert line["messages"][2]["content"] == "spk0: how are you\nspk1: fine thanks"


def chat(text: str) -> Step:
    return {"body": json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})}


def test_an_endpoint_from_the_command_line(cascade: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with scripted([chat("spk0: how are you\nspk1: fine thanks, and you?")]) as (url, seen):
        options = ["--llm", url, "--llm-model", "gpt", "--normaliser", "en"]
        assert main(["correct", str(cascade), str(tmp_path / "out"), *options]) == 0
    ((path, headers, body),) = seen
    asked = json.loads(body)
    assert (path, headers["Authorization"], asked["model"]) == ("/chat/completions", "Bearer secret", "gpt")
    assert (asked["temperature"], [m["role"] for m in asked["messages"]]) == (0, ["system", "user"])
    assert "WER +40.00 points" in capsys.readouterr().out  # two words of five


def test_a_busy_server_is_asked_again_after_as_long_as_it_says():
    waits: list[float] = []
    busy: list[Step] = [{"status": 429, "headers": {"Retry-After": "7"}}, {"status": 503, "body": "busy"}]
    with scripted([*busy, chat("yes")]) as (url, seen):
        assert Endpoint(url, "m", sleep=waits.append).ask("s", "u", 9) == "yes"
    assert waits == [7.0, 2.0]
    assert len(seen) == 3


def test_a_refusal_is_final_and_silence_ends_after_all_attempts():
    with scripted([{"status": 401, "body": '{"error": "bad key"}'}]) as (url, seen):
        with pytest.raises(ModelError, match=r"HTTP 401: .*bad key"):
            Endpoint(url, "m", sleep=pytest.fail).ask("s", "u", 9)
        assert len(seen) == 1
    waits: list[float] = []
    with (
        scripted([{**chat("late"), "stall": 1.0}]) as (url, _),
        pytest.raises(ModelError, match="ReadTimeoutError"),
    ):
        Endpoint(url, "m", timeout_s=0.1, attempts=2, sleep=waits.append).ask("s", "u", 9)
    assert waits == [1.0]
    with pytest.raises(ModelError, match="gave no answer of m"):
        Endpoint("http://127.0.0.1:1/v1", "m", attempts=1).ask("s", "u", 9)


@pytest.mark.parametrize("body", ["no json", "{}", '{"choices": []}', '{"choices": [{"message": null}]}'])
def test_another_protocol_is_an_error(body: str):
    with scripted([{"body": body}]) as (url, _), pytest.raises(ModelError, match="not in the protocol"):
        Endpoint(url, "m").ask("s", "u", 9)


@pytest.mark.parametrize("status", [200, 401])
def test_no_message_of_an_endpoint_holds_the_key(status: int):
    """A server may repeat it, and a message is cut inside it."""
    said = f"{'x' * 190} sk-a-long-secret"
    with scripted([{"status": status, "body": said}]) as (url, _), pytest.raises(ModelError) as caught:
        (asked := Endpoint(url, "m", key="sk-a-long-secret")).ask("s", "u", 9)
    assert "x ***" in str(caught.value)
    assert "sk-a" not in str(caught.value) + repr(asked)


def test_sources_that_are_not_models_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="say which model"):
        load_llm("http://localhost/v1", None, None, "cpu")
    with pytest.raises(ModelError, match="no causal LM that transformers can load"):
        Transformers(str(tmp_path))


def test_a_packaged_llm_answers(cascade: Path, tmp_path: Path):
    """SmolLM2-135M with its real weights: too small to correct anything; the wiring is what is looked at."""
    pytest.importorskip("gguf", reason="the extra baselines is not installed")
    llm = load_llm("smollm2", None, None, "cpu", package_cache())
    answer = llm.ask("You are a helpful assistant.", "What is the capital of France? Answer with one word.", 8)
    assert "Paris" in answer
    assert correct(cascade, tmp_path / "out", llm).clips == 1
    row = json.loads((tmp_path / "out" / "no.jsonl").read_text())
    assert row["answer"]
    assert row["before"].startswith("spk0 [0.00")
