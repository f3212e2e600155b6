"""Speaker-Reasoner behind a scripted server: the dialogue turn by turn, bad replies, a full context."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.baselines.cli import main
from pipeline.baselines.reasoner_endpoint import DialogueEndpoint
from pipeline.baselines.systems import SYSTEMS, load_prompt
from pipeline.dialogue.wording import CHINESE
from pipeline.evaluation.outputs import parse_output
from pipeline.evaluation.scores import score_decoded
from shards.errors import ModelError
from tests.support.http_server import scripted
from tests.unit.pipeline.baselines.test_end_to_end import WAVE, endpoint, stream

OPENING = "<think>共2位说话人</think><box>[0.0, 1.0]</box>"
SECOND = "<think>Male 1 [0.0, 0.9]: how are you</think><box>[1.0, 2.0]</box>"
ANSWER = "<answer>Male 1 [0.0, 0.9]: how are you\nFemale 2 [1.0, 1.9]: fine</answer>"


def bodies(seen: list[Any]) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, body in seen]


def heard(part: dict[str, Any]) -> np.ndarray:
    sound = base64.b64decode(part["audio_url"]["url"].partition(",")[2])
    return soundfile.read(io.BytesIO(sound))[0]


def test_each_turn_sends_the_conversation_so_far_and_the_slice_that_was_asked_for():
    with scripted([stream(OPENING), stream(SECOND), stream(ANSWER)]) as (url, seen):
        asked = DialogueEndpoint(endpoint(url, "speaker-reasoner"))
        reply = asked.hear(WAVE, load_prompt(asked.system, None).of(2.0))
    assert reply.text == f"{OPENING}\n{SECOND}\n{ANSWER}"
    assert (reply.stop, reply.attempts) == ("end", 3)
    assert reply.usage == {"prompt_tokens": 300, "completion_tokens": 60, "turns": 3, "replies": 3}
    last = bodies(seen)[2]
    assert [m["role"] for m in last["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert [last["messages"][i]["content"] for i in (1, 3)] == [OPENING, SECOND]
    first, second, third = (last["messages"][i]["content"] for i in (0, 2, 4))
    assert [p["type"] for p in first] == ["audio_url", "text"]
    assert first[1]["text"] == CHINESE.reason
    assert [p["type"] for p in (*second, *third)] == ["audio_url"] * 2
    for part, piece in ((first[0], WAVE), (second[0], WAVE[:16_000]), (third[0], WAVE[16_000:])):
        assert np.abs(heard(part) - piece).max() < 1e-4
    assert (last["temperature"], last["top_p"], last["top_k"], last["max_tokens"]) == (0.01, 0.1, 1, 8192)
    rows, _ = parse_output("speaker-reasoner", "s", reply.text)
    assert [(r.speaker, r.text, r.start, r.end) for r in rows] == [
        ("Male 1", "how are you", 0.0, 0.9), ("Female 2", "fine", 1.0, 1.9),
    ]  # fmt: skip


def test_a_bad_reply_is_asked_again_with_another_seed_and_the_larger_weights_number_observations():
    bad = "<think>x</think><box>[0.0, 0.01]</box>"
    script = [stream(bad)] * 4 + [stream(OPENING), {"status": 503}, stream(ANSWER)]
    with scripted(script) as (url, seen):
        asked = DialogueEndpoint(endpoint(url, "speaker-reasoner-4194h"))
        reply = asked.hear(WAVE, load_prompt(asked.system, None).of(2.0))
    found = bodies(seen)
    assert [b["seed"] for b in found] == [0, 1, 2, 3, 4, 0, 0]
    assert [b.get("top_k") for b in found] == [1, 1, 1, None, None, 1, 1]
    assert "$X$" in found[0]["messages"][0]["content"][1]["text"]
    assert found[-1]["messages"][2]["content"][1] == {"type": "text", "text": "当前片段作为$O_1$。"}
    assert bad not in json.dumps(found[-1])
    assert (reply.attempts, reply.usage["turns"], reply.usage["replies"]) == (7, 2, 6)


def test_a_full_context_keeps_the_observations_and_other_refusals_are_errors():
    full = {"status": 400, "body": "This model's maximum context length is 32768 tokens"}
    with scripted([stream(OPENING), stream(SECOND), full]) as (url, seen):
        reply = DialogueEndpoint(endpoint(url, "speaker-reasoner")).hear(WAVE, "q")
    assert (reply.stop, len(seen)) == ("cut", 3)
    assert [r.text for r in parse_output("speaker-reasoner", "s", reply.text)[0]] == ["how are you"]
    with scripted([{"status": 400, "body": "no"}]) as (url, _), pytest.raises(ModelError, match="HTTP 400: no"):
        DialogueEndpoint(endpoint(url, "speaker-reasoner")).hear(WAVE, "q")


def test_the_command_writes_rows_that_are_scored(tmp_path: Path):
    soundfile.write(path := tmp_path / "a.wav", WAVE, 16_000)
    (tmp_path / "ref.stm").write_text("a 1 Mike 0 0.9 how are you\na 1 Lucy 1 1.9 fine\n")
    with scripted([stream(OPENING), stream(SECOND), stream(ANSWER)]) as (url, _):
        command = ["e2e", str(path), str(tmp_path / "out"), "--system", "speaker-reasoner", "--endpoint", url]
        assert main([*command, "--reference", str(tmp_path / "ref.stm")]) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "no.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (row["format"], row["prompt_sha256"]) == (
        "speaker-reasoner", load_prompt(SYSTEMS["speaker-reasoner"], None).sha256,
    )  # fmt: skip
    (scored,) = score_decoded(tmp_path / "out", normaliser="en", metrics=["der"])
    assert (scored["cer"], scored["cpcer"], scored["metrics"]["der"]) == (0, 0, pytest.approx(0, abs=1e-6))
