"""A tiny model that has learnt nothing, for the tests that ask one."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def model_and_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from pipeline.model.build import build_model, load_tokenizer
    from tests.support.tiny import make_base, model_config

    config = model_config(make_base(tmp_path_factory.mktemp("base")))
    return build_model(config), load_tokenizer(config)
