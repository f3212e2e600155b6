"""One finished run for all tests of exporting."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.finished_runs import make_finished_run
from tests.support.tiny import TinyBase, make_base, model_config


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="package")
def base(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    return make_base(tmp_path_factory.mktemp("base"), max_shard_size="200KB")


@pytest.fixture(scope="package")
def run(base: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_finished_run(tmp_path_factory.mktemp("runs") / "run", model_config(base))
