from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.evaluation.curves import charts, main, names_of, read_run, table, thin


def make_run(folder: Path, steps: int = 30, level: float = 2.0) -> Path:
    folder.mkdir(parents=True)
    train, validation = [], []
    for s in range(1, steps + 1):
        row = {"step": s, "loss": level / s, "lr": 1e-5, "grad_norm": 1.0, "positions": 500, "audio_seconds": 1800.0}
        row |= {"seconds": 2.0, "wait_seconds": 0.5, "losses": {"d/no": level / s}}
        train.append(row | {"module_norms": {"lora": 0.5, "encoder": 0.1} if s % 10 == 0 else {}})
    train[4]["loss"] = None  # a skipped step
    for s in (0, 10, 20):
        scores = {"match": {"clips": 2, "cer": 30.0, "cpcer": 40.0, "sacer": 50.0 - s}}
        scores["all"] = scores["match"]
        gain = {"names": s / 10, "all": 0.1}
        row = {"step": s, "loss": level, "losses": {"d/no": level}, "seconds": 9.0}
        validation.append(row | {"registration_gain": gain, "scores": scores})
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in train) + '{"step": 31, "lo')
    (folder / "validation.jsonl").write_text("".join(json.dumps(r) + "\n" for r in validation))
    (folder / "events.jsonl").write_text('{"step": 5, "event": "not finite"}\n{"step": 9, "event": "spike"}\n')
    return folder


def test_running_job(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "stage4"))
    steps, losses = run.curves["training loss"]
    assert steps == [s for s in range(1, 31) if s != 5]
    assert losses[0] == 2.0
    assert run.curves["gradient norm: lora"] == ([10, 20, 30], [0.5, 0.5, 0.5])
    assert run.curves["tokens a second"][1][0] == 250.0
    assert run.curves["waiting for data, %"][1][0] == 25.0
    assert run.curves["saCER, %: all"] == ([0, 10, 20], [50.0, 40.0, 30.0])
    assert run.seconds == 30 * 2.0 + 3 * 9.0
    line = dict(zip(*table([run]), strict=True))
    assert line["audio, h"] == "15.0"
    assert line["gain, name tokens"] == "2.0000"
    assert line["least saCER, %"] == "30.00"
    assert line["events"] == "1 × not finite, 1 × spike"


def test_parts_share_a_chart_for_one_run_and_have_one_each_for_several(tmp_path: Path) -> None:
    one, two = (read_run(make_run(tmp_path / n, level=v), n) for n, v in (("small", 2.0), ("large", 1.0)))
    alone, together = (dict(charts(runs)) for runs in ([one], [one, two]))
    assert ">lora<" in alone["gradient norm, by part"]
    assert ">encoder<" in alone["gradient norm, by part"]
    assert "gradient norm: lora" in together
    for name in ("training loss", "validation loss", "gradient norm: lora", "saCER, %: match"):
        assert ">small<" in together[name]
        assert ">large<" in together[name]
    assert next(iter(alone)) == "training loss"


def test_page_is_self_contained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(tmp_path / name / "stage4")) for name in ("a", "b")]
    out = tmp_path / "pages" / "curves.html"
    assert main([*runs, "--out", str(out), "--by", "audio"]) == 0
    text = out.read_text()
    assert text.count("<svg") > 10
    assert "hours of audio" in text
    assert "a/stage4" in text
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', text)
    assert "<script" not in text
    assert capsys.readouterr().out.strip() == str(out)


def test_folder_without_logs_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "x.html")]) == 1
    assert "has no train.jsonl: name the output folder of a run" in capsys.readouterr().err
    run = make_run(tmp_path / "run")
    with (run / "train.jsonl").open("a") as file:
        file.write("\n")
    assert main([str(run), "--out", str(tmp_path / "x.html")]) == 1
    assert "train.jsonl:31: not JSON" in capsys.readouterr().err


def test_names_are_the_shortest_distinct_ends_of_paths() -> None:
    assert names_of([Path("/x/stage3"), Path("/x/stage4")]) == ["stage3", "stage4"]
    assert names_of([Path("/x/a/stage4"), Path("/x/b/stage4")]) == ["a/stage4", "b/stage4"]


def test_thinning_averages_neighbours() -> None:
    assert thin([1, 2, 3, 4, 5], [10, 20, 30, 40, 50], points=3) == ([1.5, 3.5, 5], [15, 35, 50])
    x, _ = thin(list(range(100_001)), [0.0] * 100_001)
    assert len(x) <= 400
