from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.evaluation.charts import COLOURS
from pipeline.evaluation.curves import (
    DEFINITIONS,
    GROUPS,
    charts,
    groups,
    headline,
    main,
    names_of,
    page,
    read_run,
    table,
    thin,
)
from tests.support.pages import checked_page
from tests.support.results import make_run


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
    checked_page(text)
    assert text.count("<svg") > 10
    assert "hours of audio" in text
    assert "a/stage4" in text
    assert capsys.readouterr().out.strip() == str(out)


def test_charts_are_grouped_and_every_figure_is_explained(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "stage4"))
    found = {title: [caption for caption, _ in inside] for title, inside in groups(charts([run]))}
    assert list(found) == ["Loss", "Error rates", "Registration", "Throughput", "Optimisation"]
    assert found["Loss"] == ["training loss", "training loss, by part", "validation loss", "validation loss, by part"]
    assert found["Registration"] == ["registration gain"]
    run.curves["own figure"] = ([1, 2], [1.0, 2.0])
    assert [c for c, _ in dict(groups(charts([run])))["Other figures"]] == ["own figure"]
    listed = [family for families in GROUPS.values() for family in families]
    assert set(listed) == DEFINITIONS.keys()
    shown = checked_page(page([run]))
    captions = [c for inside in found.values() for c in inside]
    assert len(shown.having("button", cls="term")) == len(captions) + 3  # and the numbers of the headline
    assert shown.text.index("Validation loss") < shown.text.index("By part" if "By part" in shown.text else "Loss")
    assert len(shown.having("svg", cls="chart")) == len(captions) + 1
    assert all(svg["aria-label"] for svg in shown.having("svg", cls="chart"))


def test_rates_of_dialogues_have_charts_and_the_der_is_in_the_headline(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "stage13")
    scores = {"all": {"clips": 4, "cer": 9.0, "cpcer": 20.0, "der": 30.0, "right_speakers": 75.0, "well_formed": 90.0}}
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "scores": scores}) for row in rows]
    (folder / "validation.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(folder)
    found = {title: [caption for caption, _ in inside] for title, inside in groups(charts([run]))}
    assert any(caption.startswith("DER") for caption in found["Error rates"])
    assert len(found["Dialogues"]) == 2
    assert [tile["value"] for tile in headline([run]) if tile["name"] == "DER"] == ["30.0"]


def test_the_headline_has_three_numbers_and_names_the_best_run(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / n, level=v), n) for n, v in (("small", 2.0), ("large", 1.0))]
    alone, both = headline(runs[:1]), headline(runs)
    assert [(t["name"], t["value"]) for t in alone] == [
        ("Validation loss", "2.000"), ("saCER", "30.0"), ("Training loss", "0.067"),
    ]  # fmt: skip
    assert (both[0]["value"], both[0]["note"]) == ("1.000", "lowest: large")
    assert both[0]["lines"] == [("small", "2.000"), ("large", "1.000")]


def test_a_run_without_a_figure_is_not_in_its_legend_and_the_others_keep_their_colour(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / n), n) for n in ("one", "two")]
    del runs[0].curves["validation loss"]
    drawn = dict(charts(runs))
    assert ">one<" in drawn["training loss"]
    assert ">one<" not in drawn["validation loss"]
    assert COLOURS[0] not in drawn["validation loss"]
    assert COLOURS[1] in drawn["validation loss"]


def test_steps_are_whole_numbers_at_the_axis(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", steps=4))
    svg = dict(charts([run]))["learning rate"]
    axis = svg[svg.index('xtick_1"') : svg.index("matplotlib.axis_2")]
    marks = re.findall(r">([\d.]+)</text>", axis)
    assert marks == ["1", "2", "3", "4"]


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
