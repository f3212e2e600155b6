"""`python -m pipeline.ranks.nodecheck`: check all nodes before a run starts, and name the bad ones.

    srun --ntasks-per-node=1 python -m pipeline.ranks.nodecheck RECIPE [key=value …]

One process per node. The first listens at the address of the rendezvous (MASTER_ADDR:MASTER_PORT). Each of the others
asks it for the time, runs its checks, and sends a report. Checked are disk, datasets (S3 or local), clock, versions of
packages and of this code, the output folder (the same one everywhere), cores and GPUs; then, if all is well, whether
Gloo and NCCL connect the nodes. A fault that all nodes share (a missing
dataset, a full output, clocks that differ) is reported as common: no node is blamed for it. Exit codes: 0: no fault;
1: at least one.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.ranks.launch import launcher_environment
from pipeline.ranks.nodefacts import Fact, cards, cores, dataset, disk, own_cards, versions
from pipeline.recipe.load import load_recipes
from pipeline.recipe.schema import Recipe
from pipeline.recipe.shipped import CHECKOUT
from shards.errors import SpeakerLMError

PINGS = 5
ANSWER_S = 5.0  # timeout of a ping


@dataclass
class NodeReport:
    """Results of one node's checks."""

    node: str
    faults: list[str] = field(default_factory=list)
    # Faults that may have their cause outside the node, by the shared resource.
    shared_faults: dict[str, str] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    equal: dict[str, str] = field(default_factory=dict)  # must be equal on all nodes
    clock: float = 0.0  # seconds that this node's clock is ahead of the first node's

    def add(self, facts: Sequence[Fact]) -> None:
        """Sort results into faults and passed checks."""
        for fact in facts:
            if fact.shared and not fact.ok:
                self.shared_faults[fact.shared] = fact.text
            else:
                (self.passed if fact.ok else self.faults).append(fact.text)


def node_name() -> str:
    """Return the name of this node, as Slurm has it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def check_node(recipes: Sequence[Recipe], disk_gb: float) -> NodeReport:
    """Run all checks of this node; one that fails does not prevent the others."""
    report = NodeReport(node_name(), equal=versions(CHECKOUT))
    first = recipes[0]
    report.add([disk(Path(first.output), disk_gb, shared=first.output), disk(Path(tempfile.gettempdir()), 1.0)])
    if first.data.shard_cache:
        report.add([disk(Path(first.data.shard_cache), first.data.shard_cache_gb)])
    paths = {d.path for r in recipes for d in [*r.data.train, *r.data.validation]}
    report.add([dataset(path) for path in sorted(paths)])
    report.add([cores(int(os.environ.get("SLURM_CPUS_PER_TASK") or 0))])
    facts, equal = cards(int(os.environ.get("SLURM_GPUS_ON_NODE") or 0), own_cards(os.environ))
    report.add(facts)
    report.equal |= equal
    return report


def judge(
    reports: Sequence[NodeReport], expected: Sequence[str], skew: float
) -> tuple[dict[str, list[str]], list[str]]:
    """Return node → its faults (only nodes with a fault), and the faults that all nodes share.

    Args:
        expected: names of all nodes; one that sent no report is at fault.
        skew: largest allowed difference of a clock from the median of all, in seconds.
    """
    wrong: dict[str, list[str]] = {r.node: list(r.faults) for r in reports}
    for name in expected:
        wrong.setdefault(name, ["sent no report: it hangs, cannot reach the first node, or did not start"])
    common = _shared_faults(reports, wrong) + _clocks(reports, skew, wrong)
    for name in sorted({name for r in reports for name in r.equal}):
        found = {r.node: r.equal.get(name, "missing") for r in reports}
        usual = Counter(found.values()).most_common(1)[0][0]  # in a tie, the first node's
        for node, value in found.items():
            if value != usual:
                wrong[node].append(f"{name} is {value}, elsewhere {usual}")
    return {node: faults for node, faults in wrong.items() if faults}, common


def _shared_faults(reports: Sequence[NodeReport], wrong: dict[str, list[str]]) -> list[str]:
    """Return faults of shared resources that all nodes report; add those of some nodes to ``wrong``."""
    common = []
    for name in dict.fromkeys(name for r in reports for name in r.shared_faults):
        faults = {r.node: r.shared_faults[name] for r in reports if name in r.shared_faults}
        if len(faults) == len(reports) > 1:
            common.append(next(iter(faults.values())))
            continue
        for node, text in faults.items():
            wrong[node].append(text)
    return common


def _clocks(reports: Sequence[NodeReport], skew: float, wrong: dict[str, list[str]]) -> list[str]:
    """Add clocks that differ from the majority to ``wrong``; without a majority return the difference as common."""
    median = statistics.median(r.clock for r in reports)
    off = {r.node: r.clock - median for r in reports if abs(r.clock - median) > skew}
    if 2 * len(off) >= len(reports) > 1:
        clocks = ", ".join(f"{r.node} {r.clock:+.1f} s" for r in reports)
        return [f"the clocks do not agree: {clocks}: start chrony or ntpd on every node, and look at its server"]
    for node, seconds in off.items():
        wrong[node].append(f"its clock is {seconds:+.1f} s off the others': start chrony or ntpd there")
    return []


# -------------------------------------------------------------------------------------------------------- conversation


class Collector:
    """The first node: answers pings with its time and the name of a file, and takes reports."""

    def __init__(self, port: int, token: str) -> None:
        self.reports: queue.Queue[NodeReport] = queue.Queue()
        self.trial: int | None = None  # port of its store, 0: no trial; None: not yet known
        self._token = token
        try:
            self._server = socket.create_server(("", port), family=socket.AF_INET, backlog=1024)
        except OSError as e:
            raise OSError(
                f"cannot listen on port {port} ({e.strerror}): set another MASTER_PORT, or start again"
            ) from e
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw", encoding="utf-8") as lines:
            for line in lines:
                sent = json.loads(line)
                if sent:
                    self.reports.put(NodeReport(**sent))
                print(json.dumps([time.time(), self._token, self.trial]), file=lines, flush=True)

    def wait(self, count: int, seconds: float) -> list[NodeReport]:
        """Return this many reports, or those that came in time."""
        end = time.monotonic() + seconds
        got: list[NodeReport] = []
        while len(got) < count and (left := end - time.monotonic()) > 0:
            try:
                got.append(self.reports.get(timeout=left))
            except queue.Empty:
                break
        return got


def report_to(address: tuple[str, int], make: Any, seconds: float) -> None:
    """On a node other than the first: ask for the time, run the checks, report.

    Raises:
        OSError: the first node cannot be reached.
    """
    with _connect(address, seconds) as connection, connection.makefile("rw", encoding="utf-8") as lines:
        connection.settimeout(ANSWER_S)

        def ask(sent: Any) -> tuple[float, str]:
            print(json.dumps(sent), file=lines, flush=True)
            at, token, _ = json.loads(lines.readline() or "null")
            return float(at), str(token)

        offsets = []
        for _ in range(PINGS):
            before = time.time()
            at, token = ask(None)
            after = time.time()
            offsets.append((after - before, (before + after) / 2 - at))
        report = make()
        report.clock = min(offsets)[1]  # of the fastest answer: its error is at most half the round trip
        report.add([sees_token(token)])
        ask(asdict(report))


def trial_port(address: tuple[str, int], seconds: float) -> int:
    """On a node other than the first, after its report: wait for the port of the trial's store; 0: no trial."""
    end = time.monotonic() + seconds
    try:
        with _connect(address, ANSWER_S) as connection, connection.makefile("rw", encoding="utf-8") as lines:
            connection.settimeout(ANSWER_S)
            while time.monotonic() < end:
                print("null", file=lines, flush=True)
                *_, port = json.loads(lines.readline() or "[0]")
                if port is not None:
                    return int(port)
                time.sleep(0.2)
    except OSError:  # the first node has found a fault, reported it and ended
        pass
    return 0


def sees_token(token: str) -> Fact:
    """Check that the file that the first node wrote into the output folder is visible here."""
    folder = Path(token).parent
    try:
        there = Path(token).name in os.listdir(folder)  # noqa: PTH208 - a listing is not cached, unlike a lookup
    except OSError:
        there = False
    return Fact(there, f"{folder} is " + ("shared" if there else "not the first node's: runs need a shared filesystem"))


def _connect(address: tuple[str, int], seconds: float) -> socket.socket:
    end = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(address, timeout=ANSWER_S)
        except OSError as e:
            if time.monotonic() > end:
                raise OSError(f"cannot reach {address[0]}:{address[1]} ({e})") from e
            time.sleep(0.2)


# --------------------------------------------------------------------------------------------------------------- main


def node_names(world_size: int) -> list[str]:
    """Return the names of all nodes of this Slurm step; empty outside Slurm."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    if not nodes or shutil.which("scontrol") is None:
        return []
    done = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False)
    names = done.stdout.split()
    return names if len(names) == world_size else []


def first_node(recipes: Sequence[Recipe], args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Collect reports, let the nodes form a group if all are well, print results and advice, return the exit code."""
    port, world_size = int(env["MASTER_PORT"]), int(env["WORLD_SIZE"])
    folder = Path(recipes[0].output).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".nodecheck-{uuid.uuid4().hex[:12]}"
    token.touch()
    try:
        collector = Collector(port, str(token))
        own = check_node(recipes, args.disk_gb)
        reports = [own, *collector.wait(world_size - 1, args.timeout)]
    finally:
        token.unlink()
    wrong, common = judge(reports, node_names(world_size), args.skew)
    if world_size > 1 and len(reports) == world_size and not wrong and not common:
        own.passed += _trial(collector, env, own.node, wrong, common)
    collector.trial = collector.trial or 0
    for r in reports:
        state = "BAD" if r.node in wrong else "not at fault" if common else "ok"
        print(f"node {r.node}: {state}, clock {r.clock:+.3f} s; " + "; ".join(r.passed))
    missing = world_size - len(reports)
    if missing:
        print(f"{missing} of {world_size} nodes sent no report within {args.timeout:.0f} s", file=sys.stderr)
    elif not wrong and not common:
        equal = ", ".join(f"{name} {value}" for name, value in sorted(own.equal.items()))
        print(f"{world_size} nodes are alike: {equal}")
    for line in advice(wrong, common, world_size):
        print(line, file=sys.stderr)
    return 1 if wrong or common or missing else 0


def _trial(
    collector: Collector, env: Mapping[str, str], name: str, wrong: dict[str, list[str]], common: list[str]
) -> list[str]:
    """Start the trial on all nodes; return what went well, and add the rest to ``wrong`` and ``common``."""
    from pipeline.ranks.node_trial import open_store, try_groups

    store = open_store(env["MASTER_ADDR"], int(env["WORLD_SIZE"]))
    collector.trial = store.port
    passed = []
    for node, fact in try_groups(env, name, store.port, store):
        if fact.ok:
            passed.append(fact.text)
        elif node:
            wrong.setdefault(node, []).append(fact.text)
        else:
            common.append(fact.text)
    return passed


def advice(wrong: dict[str, list[str]], common: Sequence[str], world_size: int) -> list[str]:
    """Return the lines about faults. Excluding nodes helps only if others are known to be better."""
    lines = [f"BAD NODE {node}: {fault}" for node, faults in wrong.items() for fault in faults]
    lines += [f"ALL {world_size} NODES: {fault}" for fault in common]
    if common:
        lines.append("all nodes report this fault: repair it; excluding nodes does not help")
    elif 0 < len(wrong) < world_size:
        lines.append(f"exclude them and submit again: sbatch --exclude={','.join(wrong)} …")
    elif wrong and world_size > 1:
        lines.append("every node has a different fault: other nodes may have one too, so read the faults first")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Check this node and return the exit code of its process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="options of launch/train.py may follow; only --stages is used")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--stages", metavar="A-B")
    parser.add_argument("--disk-gb", type=float, default=50.0, help="free space needed in the output folder")
    parser.add_argument("--skew", type=float, default=2.0, help="largest difference of clocks, in seconds")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds within which every node must report")
    args, rest = parser.parse_known_args(argv)
    overrides = [*args.overrides, *(text for text in rest if "=" in text and not text.startswith("-"))]
    place = launcher_environment(dict(os.environ))
    address = (place["MASTER_ADDR"], int(place["MASTER_PORT"]))
    try:
        recipes = load_recipes(args.recipe, args.stages, overrides)
        if place["RANK"] == "0":
            return first_node(recipes, args, os.environ | place)
        report_to(address, lambda: check_node(recipes, args.disk_gb), args.timeout)
        if port := trial_port(address, args.timeout):
            from pipeline.ranks.node_trial import try_groups

            try_groups(os.environ | place, node_name(), port)  # the first node reports its result
    except (SpeakerLMError, OSError, ValueError, TypeError) as e:
        print(f"BAD NODE {node_name()}: {type(e).__name__}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
