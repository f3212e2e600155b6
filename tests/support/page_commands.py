"""Commands of a page's block, smaller, run in a folder of their own as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from shards.weights.fetch import cache_folder

ROOT = Path(__file__).resolve().parents[2]


def page_commands(page: str, heading: str, smaller: Mapping[str, str]) -> str:
    """Return the first block of commands under a heading, with console scripts as modules of this checkout.

    Args:
        smaller: text on the page → what is run in its place; each must be there.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    block = re.search(rf"## {re.escape(heading)}\n.*?```sh\n(.*?)```", text, re.S)
    assert block
    commands = block[1]
    for shown, run in smaller.items():
        assert shown in commands, f"the example no longer holds {shown!r}"
        commands = commands.replace(shown, run, 1)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for name, target in scripts.items():
        module, function = target.split(":")
        code = f"import sys; from {module} import {function}; sys.exit({function}())"
        commands = re.sub(rf"^{name} ", f"python -c '{code}' ", commands, flags=re.M)
    return re.sub(r"^python ", f"{sys.executable} ", commands, flags=re.M)


def run_commands(commands: str, folder: Path) -> str:
    """Run commands in a folder that has this checkout's docs, recipes and DeepSpeed files; return their output."""
    for name in ("docs", "launch", "ds_configs"):
        (folder / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'launch'}",
        "SPEAKERLM_CACHE": str(cache_folder()),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    ran = subprocess.run(
        ["bash", "-ex", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout
