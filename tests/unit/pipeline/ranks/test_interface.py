"""The interface for Gloo, by routes and addresses of this machine and of played ones."""

from __future__ import annotations

import os

import pytest

from pipeline.ranks import interface
from pipeline.ranks.interface import address_of, reachable_interface, several_nodes, use_reachable_interface

PLACE = {"MASTER_ADDR": "n0", "MASTER_PORT": "29500", "WORLD_SIZE": "2"}


def routes(monkeypatch: pytest.MonkeyPatch, **sources: str) -> None:
    """A host with two networks; by target, the address that packets are sent from. Others have no route."""
    addresses = [("lo", "127.0.0.1"), ("eth0", "10.1.0.5"), ("ib0", "10.2.0.5")]
    known = {"default": "192.0.2.1"}
    table = {known.get(target, target): source for target, source in sources.items()}
    monkeypatch.setattr(interface, "_source", lambda host, port: table.get(host))
    monkeypatch.setattr(interface, "_addresses", lambda: addresses)


def test_the_interface_of_the_route_to_the_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch, n0="10.2.0.5", default="10.1.0.5")
    assert reachable_interface(PLACE) == "ib0"


def test_a_first_node_whose_own_name_is_a_loopback_address(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch, n0="127.0.1.1", default="10.1.0.5")
    assert reachable_interface(PLACE) == "eth0"
    routes(monkeypatch, n0="127.0.1.1")
    assert reachable_interface(PLACE) is None  # two others, and nothing says which


def test_ranks_of_one_host_use_its_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch, n0="127.0.0.1", default="10.1.0.5")
    assert reachable_interface(PLACE | {"LOCAL_WORLD_SIZE": "2"}) == "lo"


def test_launchers_that_say_how_many_hosts_there_are() -> None:
    assert several_nodes(PLACE)
    assert not several_nodes(PLACE | {"LOCAL_SIZE": "2"})
    assert several_nodes(PLACE | {"LOCAL_SIZE": "1"})
    assert not several_nodes(PLACE | {"SLURM_STEP_NUM_NODES": "1", "SLURM_NNODES": "2"})
    assert not several_nodes(PLACE | {"MASTER_ADDR": "localhost"})
    assert not several_nodes(PLACE | {"WORLD_SIZE": "1"})


def test_a_setting_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch, n0="10.2.0.5")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    use_reachable_interface(PLACE)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth0"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    use_reachable_interface(PLACE | {"WORLD_SIZE": "1"})
    assert os.environ["GLOO_SOCKET_IFNAME"] == ""
    use_reachable_interface(PLACE)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"


def test_this_machine_has_a_loopback() -> None:
    assert address_of("lo") == "127.0.0.1"
    assert address_of("no-such-interface") is None
    assert reachable_interface(PLACE | {"MASTER_ADDR": "127.0.0.1"}) == "lo"
