"""Weight files by path or hub id."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from shards.errors import ConfigError, FetchError
from shards.weights.hubs import weight_file


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
