"""A running server, with a stand-in for the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.serving import LIMITS, Running, registered, serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serve")
    with serving(folder, registered, limits=LIMITS, enrol_dir=folder / "people") as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with running.client() as found:
        yield found
    for name in [p.name for p in running.service.people.listed()]:
        running.service.people.delete(name)
