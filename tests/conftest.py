"""Fixtures for all tests, and the order in which files start when several run at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.rgw import PACKAGES, Gateway, gateway, missing

# As Hypothesis does by itself in continuous integration: the same examples in each run, so that a change is judged by
# what it changes. Other runs draw new ones.
settings.register_profile("no wall time", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("no wall time")

# Files that take minutes start first, so that no worker is left with one of them at the end.
LONGEST_FIRST = ("tests/e2e/test_demo.py", "tests/distributed/", "tests/e2e/", "tests/unit/pipeline/", "tests/unit/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort files by the list above; tests of a file, and files of one entry of it, keep their order."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(config.rootpath).as_posix()
        return next((i for i, start in enumerate(LONGEST_FIRST) if name.startswith(start)), len(LONGEST_FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def rgw() -> Iterator[Gateway]:
    """A real S3 server. Skips where its packages are not installed."""
    if missing():
        pytest.skip(f"no real S3 server: install the packages {', '.join(PACKAGES)} (as root on Debian, .ci/run does)")
    with gateway() as running:
        yield running


@pytest.fixture
def bucket(rgw: Gateway, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a fresh bucket there, with this process's AWS_* variables set for it."""
    for name, value in rgw.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{rgw.new_bucket()}"
