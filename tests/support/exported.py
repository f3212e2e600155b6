"""A process that knows neither the project nor what only the project needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

PROJECT = "pipeline shards launch tests deepspeed webdataset pyarrow boto3 modelscope"
# Started with -I -S: no PYTHONPATH, no current folder, no .pth file that an editable install leaves.
HIDE = """
import json, sys
from importlib.machinery import PathFinder
folder, packages, out, absent = sys.argv[1:5]
absent = absent.split()
sys.path.append(packages)

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
import torch

torch.set_num_threads(1)
"""


def run_outside(script: str, folder: Path, out: Path, absent: str) -> Any:
    """Run a script over an exported folder without the packages of ``absent``; return the JSON that it prints last."""
    keep = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", HIDE + script, folder, sysconfig.get_paths()["purelib"], out, absent],
        env={**keep, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(out / "hf")},
        cwd=out,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
