"""A run under ZeRO-3 on two gloo processes that starts from an exported folder, or from one on a model hub."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.distributed import run_distributed
from tests.support.hub import model_hub
from tests.support.training import make_parts, tiny_recipe

ID = "people/mine@v2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts, a run whose weights have moved, its folders, and three steps from each."""
    made = tmp_path_factory.mktemp("exported")
    run_distributed(_export, 1, 200, folder=str(made))
    run_distributed(_train_from_each, 2, 280, folder=str(made))
    return made


def _export(folder: str) -> None:
    from pipeline.export.folder import export
    from tests.support.finished_runs import make_finished_run

    made = Path(folder)
    make_parts(made / "parts")
    model = tiny_recipe(made / "parts", made).model
    run = make_finished_run(made / "run", model, stage=4, noise=0.02, init_from="before")
    export(run, made / "lora", dtype="float32", largest=200_000)
    export(run, made / "merged", merge=True, dtype="float32")


def _train(folder: str, init_from: str, output: str, inside: bool) -> None:
    from pipeline.recipe.schema import EncoderConfig, LlmConfig
    from pipeline.train.run_stage import run_stage

    recipe = tiny_recipe(Path(folder) / "parts", Path(folder) / output)
    recipe.init_from, recipe.data.validation = init_from, []
    if inside:
        encoder = EncoderConfig(checkpoint=init_from, hub="huggingface", dropout=0.0)
        recipe.model = replace(recipe.model, encoder=encoder, llm=LlmConfig(init_from))
    assert run_stage(recipe) == 0


def _train_from_each(folder: str) -> None:
    for name, inside in (("run", False), ("lora", False), ("lora", True), ("merged", True)):
        _train(folder, f"{folder}/{name}", f"from-{name}-{inside}", inside)


def _train_from_the_hub(folder: str, url: str, cache: str) -> None:
    """The client has read its settings already, in the process that ranks are forked from."""
    from huggingface_hub import constants

    constants.ENDPOINT, constants.HF_HUB_CACHE, constants.HF_HUB_DISABLE_XET = url, cache, True
    constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
    _train(folder, ID, "from-hub", inside=True)


def log(folder: Path, name: str) -> list[tuple[float, float]]:
    lines = (folder / name / "train.jsonl").read_text().splitlines()
    return [(row["loss"], row["grad_norm"]) for row in map(json.loads, lines)]


def weights(folder: Path, name: str) -> dict[str, object]:
    from safetensors.torch import load_file

    return load_file(folder / name / "weights" / "model.safetensors")


@pytest.mark.parametrize("name", ["from-lora-False", "from-lora-True"])
def test_an_exported_folder_trains_as_its_run_does(folder: Path, name: str) -> None:
    """To the last bit, with the public LLM and encoder or with those in the folder."""
    assert len(log(folder, "from-run-False")) == 3
    assert log(folder, name) == log(folder, "from-run-False")
    a, b = weights(folder, name), weights(folder, "from-run-False")
    assert a.keys() == b.keys()
    assert all((a[n] == b[n]).all() for n in a)  # type: ignore[attr-defined]


def test_a_merged_folder_starts_at_the_loss_of_its_run(folder: Path) -> None:
    """LoRA is new, so later steps are others."""
    ours, expected = log(folder, "from-merged-True"), log(folder, "from-run-False")
    assert ours[0][0] == pytest.approx(expected[0][0], rel=1e-5)
    assert ours[2][0] != expected[2][0]


def test_the_finished_run_names_its_start(folder: Path) -> None:
    done = json.loads((folder / "from-lora-True" / "done").read_text())
    other = json.loads((folder / "from-merged-True" / "done").read_text())
    assert done["bases"]["init_from"] != other["bases"]["init_from"]
    assert done["bases"]["llm"] != other["bases"]["llm"]


def test_ranks_of_a_node_download_once(folder: Path, tmp_path: Path) -> None:
    with model_hub({ID: folder / "lora"}) as (url, asked):
        run_distributed(_train_from_the_hub, 2, 200, folder=str(folder), url=url, cache=str(tmp_path / "cache"))
    assert log(folder, "from-hub") == log(folder, "from-run-False")
    files = [line.split()[1] for line in asked if line.startswith("GET") and "/resolve/" in line]
    assert len(files) == len(set(files)) > 5
    assert sum("/revision/v2" in line for line in asked) == 1
    assert not any(line.endswith(".py") for line in asked)
