"""Weight files by path or hub id."""

import functools
import sys
from pathlib import Path
from types import ModuleType

import pytest

from shards.errors import ConfigError, FetchError, ModelError
from shards.weights import hubs
from shards.weights.hubs import hub_name, remember, resolve_checkpoint, weight_file


@pytest.mark.parametrize(
    ("source", "module", "function"),
    [
        ("modelscope:iic/x", "modelscope.hub.snapshot_download", "snapshot_download"),
        ("hf:org/x", "huggingface_hub", "snapshot_download"),
    ],
)
def test_weight_file_of_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str, function: str
) -> None:
    """The hub's client gets the id; its error is part of ours."""
    (tmp_path / "weights.bin").write_bytes(b"x")
    asked = []

    def answer(name: str, **_: object) -> str:
        asked.append(name)
        if name == "iic/gone":
            raise OSError("no route to host")
        return str(tmp_path)

    stand_in = ModuleType(module)
    setattr(stand_in, function, answer)
    monkeypatch.setitem(sys.modules, module, stand_in)
    assert weight_file(source) == tmp_path / "weights.bin"
    assert asked == [source.partition(":")[2]]
    with pytest.raises(FetchError, match=r"iic/gone could not be downloaded: OSError: no route[\s\S]*local folder"):
        weight_file(source.partition(":")[0] + ":iic/gone")


def test_source_without_exactly_one_weight_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder; a model on a hub is named modelscope:"):
        weight_file(str(tmp_path / "nothing"))
    for names in ((), ("a.pt", "b.bin")):
        for name in names:
            (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ConfigError, match="one weight file is expected"):
            weight_file(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/model", "org/model"),
        ("org/model@v1.2", "org/model@v1.2"),
        ("hf:org/model@refs/pr/3", "org/model@refs/pr/3"),
        ("hf:here/model", "here/model"),
        ("here/model", None),  # a folder, which may not exist yet
        ("exp/small/stage3", None),
        ("stage3", None),
        ("./org/model", None),
        ("/org/model", None),
    ],
)
def test_an_id_is_not_a_path(text: str, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub_name(text) == name


@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_a_revision_is_asked_of_the_hub(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(hub: str, name: str, revision: str | None, **_: object) -> str:
        asked.append((hub, name, revision))
        return str(tmp_path)

    modules = {"huggingface": "huggingface_hub", "modelscope": "modelscope.hub.snapshot_download"}
    for name, module in modules.items():
        stand_in = ModuleType(module)
        stand_in.snapshot_download = functools.partial(answer, name)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module, stand_in)
    for name in ("org/model", "org/model@v2", "hf:org/model@v3"):
        assert resolve_checkpoint(name, hub) == tmp_path
    assert asked == [(hub, "org/model", None), (hub, "org/model", "v2"), ("huggingface", "org/model", "v3")]
    with pytest.raises(ModelError, match="give a local checkpoint folder or a hub id like owner/name"):
        resolve_checkpoint("org/model@", hub)


def test_a_remembered_id_asks_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "_remembered", {})
    remember("org/model@v2", tmp_path)
    assert resolve_checkpoint("org/model@v2", "no hub at all") == tmp_path
