"""`speakerlm-export --push-to-hub`: the real client against a hub on this machine, and back into a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from pipeline.export.carry import VAD, WEIGHTS
from pipeline.export.cli import main
from pipeline.model.build import build_model, load_finished_run
from pipeline.model.own_weights import own_state_dict
from pipeline.ranks.launch import Ranks
from pipeline.recipe.schema import DataConfig, DatasetConfig, Recipe
from pipeline.train.starting_point import find_start, take_weights
from shards.errors import ModelError
from shards.weights import hubs
from tests.support.hub import Hub, writable_hub
from tests.support.tiny import TinyBase, model_config

TOKEN = "hf_" + "secret" * 5
NAME = "people/mine"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub that takes uploads with TOKEN; the client's own settings, token file and cache are not used."""
    with writable_hub({}, uploads=tmp_path / "hub", token=TOKEN) as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage has another protocol
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(hubs, "_remembered", {})
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def push(run: Path, out: Path, *options: str) -> int:
    return main([str(run), str(out), "--dtype", "float32", "--push-to-hub", NAME, *options])


def test_a_run_goes_to_a_branch_and_comes_back(
    hub: type[Hub], run: Path, base: TinyBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(run, tmp_path / "out", "--private", "--revision", "v2") == 0
    assert hub.made == {NAME: True}
    assert files(tmp_path / "hub" / f"{NAME}@v2") == files(tmp_path / "out")
    said = capsys.readouterr()
    assert f"uploaded: {hub.url}/{NAME}/commit/" in said.out
    assert TOKEN not in said.out + said.err
    data = DataConfig(train=[DatasetConfig(path="s3://bucket/mine")])
    recipe = Recipe("mine", 1, str(tmp_path / "new"), model=model_config(base), data=data, init_from=f"{NAME}@v2")
    alone, model = Ranks(0, 1, 0, torch.device("cpu")), build_model(recipe.model)
    start = find_start(recipe, alone)
    assert start is not None
    take_weights(model, recipe, start, alone)
    ours, expected = own_state_dict(model), own_state_dict(load_finished_run(run)[0])
    assert all(torch.equal(ours[n], expected[n]) for n in expected)
    assert start.folder.is_relative_to(tmp_path / "cache")
    assert not list(start.folder.glob("*.py"))  # code of a hub is not even fetched
    recipe.init_from = f"{NAME}@v3"
    with pytest.raises(ModelError, match=f"{NAME}@v3: no such local folder, and the download from huggingface failed"):
        find_start(recipe, alone)


def test_a_second_upload_leaves_no_weights_of_the_first(hub: type[Hub], run: Path, tmp_path: Path) -> None:
    assert push(run, tmp_path / "one", "--max-shard-size", "200KB") == 0
    assert hub.made == {NAME: False}
    for name in (f"{WEIGHTS}.pt", VAD):  # carried by the first, not by the second
        (tmp_path / "hub" / NAME / name).write_bytes(b"old")
    assert push(run, tmp_path / "two", "--merge") == 0
    assert files(tmp_path / "hub" / NAME) == files(tmp_path / "two")


def test_a_refused_token_is_said_before_the_weights_are_read(
    hub: type[Hub], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", wrong := "hf_wrongwrongwrong")
    assert push(run, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"speakerlm-export: --push-to-hub {NAME}: the Hub refused the token: it is wrong")
    assert "set HF_TOKEN or run `hf auth login`" in said
    assert wrong not in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_upload_that_fails_leaves_the_folder_and_says_how_to_repeat_it(
    hub: type[Hub], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.forbidden = "/commit/"
    assert push(run, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "does not let this token write there" in said
    assert f"{tmp_path / 'out'} is whole: `hf upload {NAME} {tmp_path / 'out'}` uploads it" in said
    assert TOKEN not in said
    assert (tmp_path / "out" / "config.json").exists()


def test_what_an_upload_needs_is_said(
    hub: type[Hub], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(run), str(out), "--private"]) == 1
    assert "belong to --push-to-hub" in capsys.readouterr().err
    assert main([str(run), str(out), "--push-to-hub", "a/b/c"]) == 1
    assert "--push-to-hub a/b/c: Repo id must be" in capsys.readouterr().err
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # no server
    assert push(run, out) == 1
    assert f"--push-to-hub {NAME}: the upload failed: ConnectError" in capsys.readouterr().err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert push(run, out) == 1
    assert "needs the network, and HF_HUB_OFFLINE is set" in capsys.readouterr().err
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_TOKEN")
    assert push(run, out) == 1
    assert "needs a token: set HF_TOKEN, or run `hf auth login`" in capsys.readouterr().err
    assert not out.exists()
