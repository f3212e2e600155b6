"""Terms as users name them, and the refusal of models that were not trained with them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.decode import test_set
from pipeline.decode.context_line import MOST, read_terms, reads_context, split_terms
from pipeline.decode.generate import Answer
from pipeline.export.folder import export
from pipeline.prompts import Prompt, TextPiece
from pipeline.recipe.load import load_recipe, save_recipe
from pipeline.transcribe.cli import main as transcribe
from shards.dataset.dataset import open_dataset
from shards.errors import ConfigError, ScoreError
from tests.support.datasets import make_dataset
from tests.support.training import DIM, finished_run, make_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run`` without context and ``knows``, the same trained with it; ``test`` with three clips."""
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder)
    make_dataset(folder / "test", samples=3, speakers_per_sample=(1, 2), dim=DIM, seed=9)
    shutil.copytree(finished_run(folder), folder / "knows")
    recipe = load_recipe(folder / "knows" / "config.yaml")
    recipe.data.context.share = 0.5
    save_recipe(recipe, folder / "knows" / "config.yaml")
    return folder


def test_terms_of_a_text_and_of_a_file(tmp_path: Path) -> None:
    assert split_terms("Zoe  Li, ZeRO-3;张三、李四\nZoe Li,, ") == ("Zoe Li", "ZeRO-3", "张三", "李四")
    (tmp_path / "terms.txt").write_text(
        "# people\nZoe Li  # chair\n\nSmith, Jones & Co\nC#  # a language\n", encoding="utf-8"
    )
    assert read_terms(str(tmp_path / "terms.txt")) == ("Zoe Li", "Smith, Jones & Co", "C#")
    assert read_terms("Zoe Li, GPU") == ("Zoe Li", "GPU")
    assert read_terms(None) == ()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("missing.txt", "missing.txt: No such file"),
        (" , ", "names no term"),
        (", ".join(map(str, range(MOST + 1))), f"at most {MOST}"),
        ("word " * 20, "commas between them"),
        ("bell \x07", "not printable"),
        ("null \x00", "not printable"),
    ],
)
def test_terms_that_no_line_takes_are_refused(value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_terms(value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_terms(str(tmp_path / "a.txt"))


def test_an_export_says_whether_it_reads_context(parts: Path, tmp_path: Path) -> None:
    assert not reads_context(parts / "run")
    assert reads_context(parts / "knows")
    export(parts / "run", tmp_path / "without")
    export(parts / "knows", tmp_path / "with")
    assert "context" not in json.loads((tmp_path / "without" / "config.json").read_text())
    assert (reads_context(tmp_path / "without"), reads_context(tmp_path / "with")) == (False, True)


def test_a_model_without_context_refuses_terms_before_it_is_loaded(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert test_set.main([str(parts / "run"), str(parts / "test"), str(tmp_path / "out"), "--context", "GPU"]) == 1
    assert "not trained with a line of context: leave --context out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "a.wav").write_bytes(b"")
    assert transcribe([str(tmp_path / "a.wav"), "--model", str(parts / "run"), "--context", "GPU"]) == 1
    assert "not trained with a line of context" in capsys.readouterr().err


def test_every_clip_gets_the_terms_and_its_folder_says_so(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Prompt] = []

    def ask(_model: object, _tokenizer: object, prompts: list[Prompt], *_: object, **__: object) -> list[Answer]:
        asked.extend(prompts)
        return [Answer("spk0: hi", "end", 3) for _ in prompts]

    monkeypatch.setattr("pipeline.decode.transformers_engine.ask", ask)
    (tmp_path / "terms.txt").write_text("Zoe Li\nGPU\n")
    where = parts / "knows", str(parts / "test"), tmp_path / "out"
    options = test_set.DecodeOptions(modes="no,match", context=str(tmp_path / "terms.txt"))
    test_set.decode(*where, options)
    starts = ["".join(p.text for p in prompt.pieces[:5] if isinstance(p, TextPiece)) for prompt in asked]
    assert starts == ["Context: Zoe Li, GPU\n"] * 6
    described = json.loads((tmp_path / "out" / "decode.json").read_text())
    assert described["settings"]["context"] == ["Zoe Li", "GPU"]
    assert "(with context)" in json.dumps(described)
    with pytest.raises(ScoreError, match="decoded with another context"):
        test_set.decode(*where, replace(options, context=None))


def test_clips_get_terms_of_their_own_and_folders_do_not_mix(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Prompt] = []

    def ask(_model: object, _tokenizer: object, prompts: list[Prompt], *_: object, **__: object) -> list[Answer]:
        asked.extend(prompts)
        return [Answer("spk0: hi", "end", 3) for _ in prompts]

    monkeypatch.setattr("pipeline.decode.transformers_engine.ask", ask)
    keys = sorted(c.key for c in test_set.clips_of(open_dataset(str(parts / "test"))))
    (tmp_path / "terms.tsv").write_text(f"{keys[0]}\tZoe Li\n{keys[1]}\t张三, GPU\n")
    where = parts / "knows", str(parts / "test"), tmp_path / "out"
    options = test_set.DecodeOptions(modes="no", batch=1, context="GPU", clip_context=tmp_path / "terms.tsv")
    test_set.decode(*where, options)
    lines = ["".join(p.text for p in prompt.pieces if isinstance(p, TextPiece)).partition("\n")[0] for prompt in asked]
    assert sorted(lines) == ["Context: GPU", "Context: Zoe Li, GPU", "Context:张三, GPU"]
    described = json.loads((tmp_path / "out" / "decode.json").read_text())
    assert described["settings"]["clip_context"]["clips"] == 2
    assert described["about"]["test_set"].endswith(" (with context per clip)")
    (tmp_path / "other.tsv").write_text(f"{keys[0]}\tZoe Lee\n")
    for other in (None, tmp_path / "other.tsv"):
        with pytest.raises(ScoreError, match="decoded with another clip_context"):
            test_set.decode(*where, replace(options, clip_context=other))
    (tmp_path / "other.tsv").write_text("unknown\tZoe\n")
    with pytest.raises(ConfigError, match=r"1 of 1 keys are not in .*: unknown"):
        test_set.decode(*where, replace(options, clip_context=tmp_path / "other.tsv"))
    with pytest.raises(ConfigError, match="leave --clip-context out"):
        test_set.decode(parts / "run", *where[1:], replace(options, context=None))
