"""Every benchmark that needs no GPU, one after the other: `make bench`.

Each runs in its own process with ``--check``; what it prints goes to OUT/NAME.log. At the end a table of what was
reached and the targets, and OUT/results.json with every figure, versions and the machine. Exit code 1 where a target
was missed or a benchmark failed; the others run all the same. Names choose some of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support import rgw
from shards.weights.fetch import cache_folder

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("pack", "pack_plan", "simulate", "speakers", "batching", "training_plan", "loader", "loader_s3")
NAMES += ("step", "host", "checkpoint", "score", "decode", "decode_engines", "serve", "linking", "context", "int8")
VLLM = ROOT / ".venv-vllm" / "bin" / "python"  # of `make test-serve`
DEMO = (ROOT / "demo" / "exp" / "stage4", ROOT / "demo" / "data" / "test-simulated")  # of `make demo`
PACKAGES = ("torch", "deepspeed", "transformers", "webdataset", "lhotse", "mosaicml-streaming", "meeteval")


def main() -> int:
    """Run them, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all where none is given")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="folder for logs and results.json")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="folder for fetched packages")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(NAMES)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    chosen = [n for n in NAMES if n in (args.names or NAMES)]
    if rgw.missing() and "loader_s3" in chosen:
        print("loader_s3 is skipped: no S3 server here; as root on Debian, python tests/support/rgw.py --install")
        chosen.remove("loader_s3")
    if "decode_engines" in chosen and not all(path.exists() for path in (VLLM, *DEMO)):
        print("decode_engines is skipped: it needs vLLM and the demo's model; make test-serve, then make demo")
        chosen.remove("decode_engines")
    args.out.mkdir(parents=True, exist_ok=True)
    speech = args.out / "speech"
    if {"speakers", "linking"} & set(chosen) and not (speech / "audit.json").exists():
        cli = (sys.executable, "-m", "shards.cli", "prepare", "packaged-speech", str(args.cache), str(speech))
        subprocess.run(cli, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    options: dict[str, tuple[str, ...]] = {
        "speakers": (str(speech / "prompts"),),
        "linking": ("--speech", str(speech), "--cache", str(args.cache)),
        "decode_engines": tuple(map(str, DEMO)),
    }
    results = {}
    for name in (bar := tqdm(chosen, disable=None, unit="benchmark")):
        bar.set_description(name)
        results[name] = one(name, options.get(name, ()), args.out)
    (args.out / "results.json").write_text(json.dumps(machine() | {"benchmarks": results}, indent=1) + "\n")
    print("\n".join(table(results)))
    print(f"every figure: {args.out / 'results.json'}")
    return int(not all(r.get("met") for r in results.values()))


def one(name: str, options: Sequence[str], out: Path) -> dict[str, Any]:
    """Run one; its line of JSON with the seconds it took, or the exit code and where its log is."""
    log, start = out / f"{name}.log", time.monotonic()
    python = str(VLLM) if name == "decode_engines" else sys.executable
    command = (python, str(ROOT / "benchmarks" / f"{name}.py"), *options, "--check")
    with log.open("w") as file:
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, check=False).returncode
    seconds = round(time.monotonic() - start, 1)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith('{"name"')]
    if not lines:
        return {"met": False, "seconds": seconds, "failed": f"exit code {code}, see {log}"}
    return json.loads(lines[-1]) | {"seconds": seconds}


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each target, or for each benchmark whose targets are not single figures."""
    lines = [f"{'benchmark':<12}{'s':>6}  {'figure':<28}{'reached':>10}{'target':>10}"]
    for name, result in results.items():
        head = f"{name:<12}{result['seconds']:>6.0f}  "
        if "failed" in result:
            lines.append(head + result["failed"])
            continue
        for key, target in result["targets"].items():
            reached = result["figures"].get(key, "see log")
            lines.append(f"{head}{key:<28}{reached:>10}{target:>10}")
            head = " " * len(head)
        lines[-1] += "" if result["met"] else "  missed"
    return lines


def machine() -> dict[str, Any]:
    """Describe the machine and the versions."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, check=False).stdout
    return {
        "commit": commit.decode().strip(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": {p: version(p) for p in PACKAGES},
    }


if __name__ == "__main__":
    sys.exit(main())
