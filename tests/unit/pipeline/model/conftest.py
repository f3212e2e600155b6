"""One tiny base for all tests of the model: building it imports FunASR and transformers."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import TinyBase, make_base


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="package")
def base(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    return make_base(tmp_path_factory.mktemp("base"))
