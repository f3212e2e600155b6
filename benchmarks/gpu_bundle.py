"""Everything that the first questions to a GPU need on a machine without network, in one folder below 64 MB.

    python benchmarks/gpu_bundle.py /tmp/bundle          # here, where a package index can be reached
    bash /tmp/bundle/run.sh --out results                # there: Python 3.12, torch 2.11 with CUDA; 30 minutes

The folder holds the code (git's files of CODE), wheels of what such a machine lacks in the versions of constraints.txt,
the datasets of a short real run, estimates of the benchmark's memory, and run.sh, which installs the wheels beside the
machine's own packages, into a temporary folder, and asks the questions of benchmarks/gpu_first.py. torch, numpy,
tokenizers, safetensors, accelerate, psutil, pyarrow, tqdm, PyYAML and regex are the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_run import SETS
from benchmarks.gpu_step import all_needs

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 64 * 10**6
CODE = ("pipeline", "shards", "benchmarks", "ds_configs", "launch", "pyproject.toml")
WHEELS = (  # pure, or for this Python; nothing else is asked for
    "annotated-types", "cffi", "fastcrc", "funasr", "hjson", "kaldiio", "lazy-loader", "librosa", "liger_kernel",
    "omegaconf", "peft", "py-cpuinfo", "pycparser", "pydantic", "pydantic_core", "RapidFuzz", "six", "soundfile",
    "soxr", "torchao", "transformers", "typing-inspection", "typing_extensions", "urllib3",
)  # fmt: skip
BUILT = ("antlr4-python3-runtime", "deepspeed")  # published as source alone; both are pure Python
RUN = """#!/bin/bash
# Installs the wheels into a temporary folder and asks: bash run.sh --out RESULTS [option or question of gpu_first.py …]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$here"/wheels/*.whl
export PYTHONPATH="$here/src:$site"
python3 "$here/src/benchmarks/gpu_first.py" --data "$here/data" --needs "$here/needs.json" "$@"
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
    own = ("-none-", "-abi3-", f"cp{python.replace('.', '')}")  # of no interpreter, of every later one, of this one
    foreign = [p.name for p in target.glob("*.whl") if not any(tag in p.name for tag in own)]
    if foreign:
        raise SystemExit(f"built for another machine: {', '.join(foreign)}")


def make_data(target: Path, small: Path | None) -> None:
    """Datasets of stages 1 and 2 of the small recipe, from packaged speech, a few samples each.

    Args:
        small: folder in which launch/small.py has made its data; None: make it.
    """
    with tempfile.TemporaryDirectory(prefix="speakerlm-bundle-") as folder:
        made = small or Path(folder)
        if small is None:
            script = ROOT / "launch" / "small.py"
            options = ["--smoke", "--data-only", "--no-models", "--out", folder]
            if cache := os.environ.get("SPEAKERLM_CACHE"):
                options += ["--cache", cache]
            subprocess.run([sys.executable, str(script), *options], check=True, stdout=sys.stderr)
        for name in SETS:
            shutil.copytree(made / "data" / name, target / name)


def main() -> int:
    """Assemble; exit 1 where it is too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version on the GPU machine")
    parser.add_argument("--no-wheels", action="store_true", help="without the wheels")
    parser.add_argument("--no-needs", action="store_true", help="without estimates: the GPU machine makes them")
    parser.add_argument("--data", type=Path, metavar="DIR", help="launch/small.py's folder; default: make its data")
    args = parser.parse_args()
    if args.folder.exists() and any(args.folder.iterdir()):
        raise SystemExit(f"{args.folder} is not empty: name another folder")
    files = copy_code(args.folder / "src")
    if not args.no_wheels:
        fetch_wheels(args.folder / "wheels", args.python)
    make_data(args.folder / "data", args.data)
    needs = {} if args.no_needs else all_needs(small=False)
    (args.folder / "needs.json").write_text(json.dumps(needs, indent=1))
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
