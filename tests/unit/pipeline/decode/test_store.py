"""Output folder of decoding: continuing, and refusing other settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.decode.store import DecodeFolder, DecodeLabels, DecodeSettings, Timing
from shards.errors import ScoreError

ABOUT = DecodeLabels("run", 4, "test", "random", None)


def settings(**other: object) -> DecodeSettings:
    return DecodeSettings(**{"run": "run", "weights": "a", "dataset": "d", "fingerprint": "f", "seed": 1, "batch": 1,
                       "limit": None, **other})  # type: ignore[arg-type]  # fmt: skip


def filled(folder: Path) -> DecodeFolder:
    """Two of three clips, from two processes."""
    output = DecodeFolder(folder, settings(), ABOUT)
    for rank, key in enumerate("ab"):
        with output.part("no", rank, 2) as part:
            part.append([{"key": key, "raw": "spk0: hi"}], Timing(1, 2.0, 1.0, 10))
    return output


def test_partial_last_line_is_cut_off_and_the_clip_is_decoded_again(tmp_path: Path):
    output = filled(tmp_path)
    path = tmp_path / "parts" / "no.1-of-2.jsonl"
    with path.open("a") as f:
        f.write('{"key": "c", "ra')
    assert set(output.rows("no")) == {"a", "b"}
    with output.part("no", 1, 2) as part:
        part.append([{"key": "c", "raw": "spk0: ho"}], Timing(1, 2.0, 1.0, 30))
    timings = output.merge({"no": ["c", "a", "b"]})
    assert timings == {"no": Timing(3, 6.0, 3.0, 30)}
    assert [json.loads(line)["key"] for line in (tmp_path / "no.jsonl").read_text().splitlines()] == ["c", "a", "b"]


@pytest.mark.parametrize("line", ['{"key": "c", "ra\n', "[]\n", '{"raw": "spk0: hi"}\n'])
def test_damaged_line_is_reported_and_the_advice_works(tmp_path: Path, line: str):
    output = filled(tmp_path)
    path = tmp_path / "parts" / "no.0-of-2.jsonl"
    path.write_text(path.read_text() + line)
    with pytest.raises(ScoreError, match=r"no\.0-of-2\.jsonl: line 2 is damaged.*delete .*no\.0-of-2\.\*"):
        output.rows("no")
    for file in path.parent.glob("no.0-of-2.*"):
        file.unlink()
    assert set(output.rows("no")) == {"b"}
    with output.part("no", 0, 2) as part:
        part.append([{"key": "a", "raw": "spk0: hi"}], Timing(1, 2.0, 1.0, 10))
    assert output.merge({"no": ["a", "b"]}) == {"no": Timing(2, 4.0, 2.0, 10)}, "decoded again, counted once"


def test_damaged_timing_is_reported(tmp_path: Path):
    output = filled(tmp_path)
    (tmp_path / "parts" / "no.0-of-2.timing").write_text('{"clips": 1}\n')
    with pytest.raises(ScoreError, match=r"timing: line 1 is damaged"):
        output.merge({"no": ["a", "b"]})


@pytest.mark.parametrize("text", ['{"settings": ', "[]", '{"settings": [], "timing": {}}', "{}"])
def test_damaged_description_is_reported(tmp_path: Path, text: str):
    filled(tmp_path)
    (tmp_path / "decode.json").write_text(text)
    with pytest.raises(ScoreError, match=r"decode\.json"):
        DecodeFolder(tmp_path, settings(), ABOUT)


def test_output_of_other_settings_is_refused(tmp_path: Path):
    filled(tmp_path)
    DecodeFolder(tmp_path, settings(dataset="moved"), ABOUT)
    with pytest.raises(ScoreError, match="another weights, seed"):
        DecodeFolder(tmp_path, settings(weights="b", seed=2), ABOUT)


def test_folder_of_before_there_were_engines_continues_with_transformers_only(tmp_path: Path):
    filled(tmp_path)
    path = tmp_path / "decode.json"
    content = json.loads(path.read_text())
    del content["settings"]["engine"]
    path.write_text(json.dumps(content))
    assert set(DecodeFolder(tmp_path, settings(), ABOUT).rows("no")) == {"a", "b"}
    with pytest.raises(ScoreError, match="another engine"):
        DecodeFolder(tmp_path, settings(engine={"name": "vllm"}), ABOUT)
