"""Everything that benchmarks/gpu_step.py needs on a GPU machine without network, in one folder below 64 MB.

    python benchmarks/gpu_bundle.py /tmp/bundle          # here, where a package index can be reached
    bash /tmp/bundle/run.sh --check                      # there: Python 3.12, torch 2.11 with CUDA

The folder holds the code (git's files of pipeline, shards, benchmarks and ds_configs), wheels of what such a machine
lacks in the versions of constraints.txt, and run.sh, which installs them beside the machine's own packages, into a
temporary folder. torch, numpy, tokenizers, safetensors, accelerate, psutil, tqdm, PyYAML and regex are the machine's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 64 * 10**6
CODE = ("pipeline", "shards", "benchmarks", "ds_configs", "pyproject.toml")
WHEELS = (  # pure, or for this Python; nothing else is asked for
    "annotated-types", "funasr", "hjson", "kaldiio", "lazy-loader", "librosa", "omegaconf", "peft", "py-cpuinfo",
    "pydantic", "pydantic_core", "RapidFuzz", "six", "transformers", "typing-inspection", "typing_extensions",
)  # fmt: skip
BUILT = ("antlr4-python3-runtime", "deepspeed")  # published as source alone; both are pure Python
RUN = """#!/bin/bash
# Installs the wheels into a temporary folder and runs the benchmark: bash run.sh [options of gpu_step.py]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$here"/wheels/*.whl
PYTHONPATH="$here/src:$site" python3 "$here/src/benchmarks/gpu_step.py" "$@"
"""


def pinned() -> dict[str, str]:
    """Package → version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {name.strip(): version.split()[0] for name, version in pairs}


def copy_code(target: Path) -> int:
    """Git's files of the code; how many."""
    listed = subprocess.run(["git", "ls-files", *CODE], cwd=ROOT, check=True, capture_output=True, text=True)
    files = listed.stdout.split()
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name)
    return len(files)


def fetch_wheels(target: Path, python: str) -> None:
    """Wheels for Linux x86-64 and this Python, by pip."""
    versions = pinned()
    target.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    platforms = [f"--platform=manylinux{p}_x86_64" for p in ("_2_28", "_2_17", "2014", "1")]
    there = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    names = [f"{name}=={versions[name]}" for name in WHEELS]
    subprocess.run([*pip, "download", "-q", "--no-deps", *there, "-d", str(target), *names], check=True)
    names = [f"{name}=={versions[name]}" for name in BUILT]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(target), *names], check=True)
    foreign = [
        p.name
        for p in target.glob("*.whl")
        if "none-any" not in p.name and f"cp{python.replace('.', '')}" not in p.name
    ]
    if foreign:
        raise SystemExit(f"built for another machine: {', '.join(foreign)}")


def main() -> int:
    """Assemble; exit 1 where it is too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version on the GPU machine")
    parser.add_argument("--no-wheels", action="store_true", help="the code alone")
    args = parser.parse_args()
    if args.folder.exists() and any(args.folder.iterdir()):
        raise SystemExit(f"{args.folder} is not empty: name another folder")
    files = copy_code(args.folder / "src")
    if not args.no_wheels:
        fetch_wheels(args.folder / "wheels", args.python)
    (args.folder / "run.sh").write_text(RUN, encoding="utf-8")
    size = sum(p.stat().st_size for p in args.folder.rglob("*") if p.is_file())
    print(
        f"{args.folder}: {files} files of code, {len(list(args.folder.glob('wheels/*')))} wheels, {size / 1e6:.1f} MB"
    )
    figures = {"megabytes": round(size / 1e6, 2)}
    print(json.dumps({"name": "gpu_bundle", "figures": figures, "targets": {"megabytes": 64}, "met": size < LIMIT}))
    return int(size >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
