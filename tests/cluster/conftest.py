"""One cluster, one corpus and one undisturbed chain of jobs for all tests here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import slurm as support
from tests.support.campaign import TEST, Campaign, Corpus, make_campaign, make_corpus
from tests.support.distributed import ROOT
from tests.support.rgw import Gateway
from tests.support.slurm import Slurm

CHAIN_S = 3000  # of the whole chain, on a busy machine


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A real Slurm. Skips where there can be none."""
    if reason := support.why_not():
        pytest.skip(f"no Slurm: {reason} (as root on Debian, .ci/run does)")
    with support.cluster() as running:
        yield running


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The demo's speech, in small, packed by one process into a folder."""
    return make_corpus(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def campaign(slurm: Slurm, rgw: Gateway, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Recipes, a site file and a list of corpora over a fresh bucket; credentials in a file, as a user has them."""
    return make_campaign(tmp_path_factory.mktemp("campaign"), rgw, corpus)


@pytest.fixture(scope="session")
def chain(slurm: Slurm, campaign: Campaign) -> dict[str, str]:
    """Name → number of every job of ``submit_all.sh``, all of them completed."""
    c = campaign
    said = slurm.call(
        "launch/slurm/submit_all.sh", str(c.corpora), str(c.recipes), str(c.folder / "scores"), c.data(TEST),
        cwd=ROOT, **c.environment,
    )  # fmt: skip
    jobs = {line.partition(": job ")[0]: line.rpartition(" ")[2] for line in said.splitlines()}
    began = time.monotonic()
    for number in jobs.values():
        slurm.wait_for(number, "COMPLETED", seconds=CHAIN_S - (time.monotonic() - began), log=c.said)
    return jobs


@pytest.fixture
def s3(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """The campaign, with this process's AWS_* variables as its jobs have them."""
    for name, value in campaign.environment.items():
        monkeypatch.setitem(os.environ, name, value)
    return campaign


@pytest.fixture
def logs(campaign: Campaign) -> Path:
    """Where the jobs write."""
    return campaign.folder / "logs"
