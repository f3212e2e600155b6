"""A first collective of all nodes, one process each: Gloo, and NCCL where there are GPUs.

A run makes its Gloo groups after the model has loaded. Interfaces that cannot reach each other are found here, before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pipeline.ranks.interface import VARIABLE, address_of, is_loopback, several_nodes, use_reachable_interface
from pipeline.ranks.nodefacts import Fact

TRIAL_S = 60.0  # of connecting, and of one operation


def open_store(host: str, nodes: int) -> Any:
    """On the first node: a store at which the nodes meet, on a free port, its ``port``."""
    import torch

    return torch.distributed.TCPStore(host, 0, nodes, is_master=True, wait_for_workers=False, timeout=_limit())


def try_groups(env: Mapping[str, str], name: str, port: int, store: Any = None) -> list[tuple[str, Fact]]:
    """Form the groups, and sum a one of each node. Collective: every node calls it, with the first node's port.

    Args:
        env: WORLD_SIZE and RANK count nodes; MASTER_ADDR is the first one.
        name: of this node.
        store: the first node's own.

    Returns:
        Node and result: a result that concerns all nodes under the name "".
    """
    import torch

    use_reachable_interface(env)
    rank, nodes = int(env["RANK"]), int(env["WORLD_SIZE"])
    interface = os.environ.get(VARIABLE, "")
    address = address_of(interface) or "no address"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    operations = "Gloo and NCCL" if device == "cuda" else "Gloo"
    try:
        store = store or torch.distributed.TCPStore(env["MASTER_ADDR"], port, nodes, timeout=_limit())
        store.set(f"node/{rank}", f"{name}\t{interface or 'the interface of its name'}\t{address}")
        places = [store.get(f"node/{r}").decode().split("\t") for r in range(nodes)]
    except RuntimeError as e:
        return [("", Fact(False, f"the nodes do not meet at {env['MASTER_ADDR']}:{port}: {_first_line(e)}"))]
    listed = ", ".join(f"{n} {i} {a}" for n, i, a in places)
    advice = f"set {VARIABLE} in launch/slurm/site.sh to the interface of the nodes' network"
    if several_nodes(env) and (alone := [(n, i, a) for n, i, a in places if is_loopback(a)]):
        text = f"Gloo would use {{}}, {{}}, which other nodes cannot reach: {advice}"
        return [(n, Fact(False, text.format(i, a))) for n, i, a in alone]
    try:
        _sum_of_ones(store, rank, nodes, device)
    except RuntimeError as e:
        return [("", Fact(False, f"{operations} cannot connect the nodes ({listed}): {_first_line(e)}; {advice}"))]
    return [("", Fact(True, f"{operations} connects {listed}"))]


def _sum_of_ones(store: Any, rank: int, nodes: int, device: str) -> None:
    import torch

    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # a collective that times out raises, here and not in a run
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=nodes, timeout=_limit())
    for where in dict.fromkeys(("cpu", device)):
        ones = torch.ones(1, device=where)
        torch.distributed.all_reduce(ones)
        if int(ones.item()) != nodes:
            raise RuntimeError(f"a sum over {nodes} nodes on {where} is {ones.item():g}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _limit() -> timedelta:
    return timedelta(seconds=TRIAL_S)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
