"""Gloo between two hosts whose own names resolve to 127.0.1.1, as Debian and Ubuntu set them up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.recipe.load import save_recipe
from tests.support import hosts as support
from tests.support.datasets import make_dataset
from tests.support.hosts import NAMES, Host, outputs
from tests.support.toy import toy_recipe

SECONDS = 120
GROUP = """
from pipeline.ranks.collectives import all_reduce_sum, host_group
from pipeline.ranks.launch import init_distributed
ranks = init_distributed(40)
print("sum", all_reduce_sum(ranks, [1.0 + ranks.rank], host_group(40)))
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """Skips where there can be none."""
    if reason := support.why_not():
        pytest.skip(f"no hosts: {reason}")
    with support.two_hosts() as both:
        yield both


def place(rank: int, port: int) -> dict[str, str]:
    """As train.sbatch and srun set it: the first node by its name."""
    return {
        "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": NAMES[0], "MASTER_PORT": str(port),
        "SLURMD_NODENAME": NAMES[rank], "GLOO_SOCKET_IFNAME": "",
    }  # fmt: skip


def test_the_host_group_connects_them(hosts: tuple[Host, Host]) -> None:
    ends = outputs([host.start("-c", GROUP, **place(r, 23456)) for r, host in enumerate(hosts)], SECONDS)
    assert [code for code, _ in ends] == [0, 0], ends
    assert all("sum [3.0]" in text for _, text in ends)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    make_dataset(tmp_path / "data", samples=2, dim=0)
    made = toy_recipe(tmp_path / "run")
    made.data.train[0].path = str(tmp_path / "data")
    save_recipe(made, tmp_path / "recipe.yaml")
    return str(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("interfaces", [("", ""), ("eth7", "lo")])
def test_the_node_check_forms_a_group(hosts: tuple[Host, Host], recipe: str, interfaces: tuple[str, str]) -> None:
    command = ("-m", "pipeline.ranks.nodecheck", "--disk-gb", "0.001", "--timeout", "60", recipe)
    started = [
        host.start(*command, **(place(r, 23460) | {"GLOO_SOCKET_IFNAME": name}))
        for r, (host, name) in enumerate(zip(hosts, interfaces, strict=True))
    ]
    (code, said), _ = outputs(started, SECONDS)
    if interfaces[1] == "lo":
        assert code == 1, said
        assert f"BAD NODE {NAMES[1]}: Gloo would use lo, 127.0.0.1, which other nodes cannot reach" in said
    else:
        assert code == 0, said
        assert f"Gloo connects {NAMES[0]} eth7 10.99.7.1, {NAMES[1]} eth7 10.99.7.2" in said
