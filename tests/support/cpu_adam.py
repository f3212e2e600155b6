"""DeepSpeed's Adam for the host, compiled once into the cache: `zero3_offload.json` updates with it."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.distributed import CPU, ROOT

BUILD_S = 3000  # 30 CPU seconds


def compiled_adam() -> Path:
    """Folder for :func:`use_adam`. Skips where there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("Adam on the host is compiled at its first use: install g++")
    folder = ROOT / ".cache" / "torch_extensions"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "building").open("w") as ours:
        fcntl.lockf(ours, fcntl.LOCK_EX)
        # torch waits for ever for the lock of a build that was killed
        (folder / "cpu_adam" / "lock").unlink(missing_ok=True)
        build = "import sys; from tests.support import cpu_adam; cpu_adam.use_adam(sys.argv[1])"
        command = [sys.executable, "-c", build, str(folder)]
        subprocess.run(command, check=True, env=os.environ | CPU, cwd=ROOT, timeout=BUILD_S, stdout=subprocess.DEVNULL)
    return folder


def use_adam(folder: str) -> None:
    """Load DeepSpeed's Adam in this process from the folder; compile it there if it is not.

    Most of the time is spent on torch's headers: both sources are compiled as one, with fewer optimisations. The kind
    of processor, which DeepSpeed asks for at each Adam, is found in another process, once.
    """
    import cpuinfo
    from deepspeed.ops.op_builder import CPUAdamBuilder

    # torch asks ninja, which the virtual environment has
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ["TORCH_EXTENSIONS_DIR"] = folder
    cpuinfo.get_cpu_info = functools.cache(cpuinfo.get_cpu_info)
    builder = CPUAdamBuilder()
    both = Path(folder) / "both.cpp"
    text = "".join(f'#include "{builder.deepspeed_src_path(source)}"\n' for source in builder.sources())
    if not both.exists() or both.read_text() != text:
        both.write_text(text)
    flags = [flag for flag in builder.cxx_args() if flag not in ("-O3", "-g")]
    CPUAdamBuilder.sources = lambda _: [str(both)]
    CPUAdamBuilder.cxx_args = lambda _: [*flags, "-O1"]
    builder.load()
