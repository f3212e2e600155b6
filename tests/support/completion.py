"""Completion of a command line, as a shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def completed(module: str, line: str, tmp_path: Path) -> set[str]:
    """What a shell shows for a line with the cursor at its end, by argcomplete's protocol."""
    found = tmp_path / "found"
    env = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    subprocess.run(
        [sys.executable, "-c", f"from {module} import main; main()"],
        env={**os.environ, **env, "_ARGCOMPLETE_STDOUT_FILENAME": str(found), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    return {word.strip() for word in found.read_text().split("\n")}
