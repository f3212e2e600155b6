"""The network interface that Gloo listens on.

Without GLOO_SOCKET_IFNAME Gloo takes the address that the host's name resolves to. On Debian and Ubuntu that is often
127.0.1.1, which other nodes cannot reach: the run would end with "another rank is gone" after the model has loaded.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915
_ELSEWHERE = ("192.0.2.1", "2001:db8::1")  # reserved for documentation: a route to them is the default route


def use_reachable_interface(env: Mapping[str, str]) -> None:
    """Set GLOO_SOCKET_IFNAME for this process, unless it is set, there is one rank, or no interface is found.

    Args:
        env: MASTER_ADDR and MASTER_PORT of the rendezvous, WORLD_SIZE, and what launchers say about ranks per node.
    """
    if not os.environ.get(VARIABLE) and int(env["WORLD_SIZE"]) > 1 and (name := reachable_interface(env)):
        os.environ[VARIABLE] = name


def reachable_interface(env: Mapping[str, str]) -> str | None:
    """Return the interface of the route to MASTER_ADDR; None: not found.

    On the first node that address is its own. If its name resolves to a loopback address there and other nodes take
    part, the interface is that of the default route, else the only other one.
    """
    address = _source(env["MASTER_ADDR"], int(env["MASTER_PORT"]))
    if address is None or (is_loopback(address) and several_nodes(env)):
        address = next((a for target in _ELSEWHERE if (a := _source(target, 9))), None)
    interfaces = _addresses()
    if address is None:
        others = sorted({name for name, found in interfaces if not is_loopback(found)})
        return others[0] if len(others) == 1 else None
    return next((name for name, found in interfaces if found == address), None)


def several_nodes(env: Mapping[str, str]) -> bool:
    """Return whether ranks run on other nodes too; if the launcher does not say so, whether there are other ranks."""
    world = int(env["WORLD_SIZE"])
    if is_loopback(env["MASTER_ADDR"]) or env["MASTER_ADDR"] == "localhost":
        return False
    if "LOCAL_WORLD_SIZE" in env:  # torchrun
        return int(env["LOCAL_WORLD_SIZE"]) < world
    if "LOCAL_SIZE" in env:  # deepspeed
        return int(env["LOCAL_SIZE"]) < world
    return world > 1 and env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES")) != "1"


def is_loopback(address: str) -> bool:
    """Return whether only this host can reach the address."""
    return address.startswith("127.") or address == "::1"


def address_of(interface: str) -> str | None:
    """Return an address of an interface of this host, IPv4 first; None: it has none, or there is no such interface."""
    return next((found for name, found in _addresses() if name == interface), None)


def _source(host: str, port: int) -> str | None:
    """Return the own address that packets to ``host`` are sent from. No packet is sent."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    for family, kind, protocol, _, target in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(target)
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None


def _addresses() -> list[tuple[str, str]]:
    """Return (interface, address) of this host, IPv4 before IPv6."""
    out = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no IPv4 address
                continue
            out.append((name, socket.inet_ntoa(answer[20:24])))
    listed = Path("/proc/net/if_inet6")
    for line in listed.read_text().splitlines() if listed.exists() else []:
        digits, *_, name = line.split()
        out.append((name, socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))))
    return out
