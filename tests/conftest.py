"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.rgw import PACKAGES, Gateway, gateway, missing


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
