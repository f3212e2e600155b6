"""DeepSpeed's Adam for the host, compiled once into the cache: `zero3_offload.json` updates with it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.distributed import CPU, ROOT

BUILD_S = 3000  # 130 CPU seconds


def compiled_adam() -> Path:
    """Folder for TORCH_EXTENSIONS_DIR. Skips where there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("Adam on the host is compiled at its first use: install g++")
    folder = ROOT / ".cache" / "torch_extensions"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "building").open("w") as ours:
        fcntl.lockf(ours, fcntl.LOCK_EX)
        (folder / "cpu_adam" / "lock").unlink(
            missing_ok=True
        )  # of a build that was killed; torch waits for it for ever
        build = "from deepspeed.ops.op_builder import CPUAdamBuilder; CPUAdamBuilder().load()"
        env = os.environ | CPU | environment(folder)
        subprocess.run([sys.executable, "-c", build], check=True, env=env, timeout=BUILD_S, stdout=subprocess.DEVNULL)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Where ranks find it; torch asks ninja, which the virtual environment has."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"TORCH_EXTENSIONS_DIR": str(folder), "PATH": path}
