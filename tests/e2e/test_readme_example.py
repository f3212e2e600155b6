"""The README's worked example, command by command, with fewer samples and steps."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("SPEAKERLM_CACHE") or ROOT / ".cache" / "speech").resolve()
pytestmark = pytest.mark.timeout(1200)
# Less of everything: the text in the README and what the test runs.
SMALLER = {
    "mine/corpus\n": f"mine/corpus --cache {CACHE} --meetings 2\n",
    "--count 400": "--count 12",
    "--encoder-steps 400": "--encoder-steps 2",
    "--llm-steps 1000": "--llm-steps 2",
    "trainer.max_steps=20": "trainer.max_steps=2 optimizer.warmup_steps=1",
    "--modes no,match": "--modes no,match --limit 4",
}


def example() -> str:
    """Return the commands of the example, smaller, with console scripts as modules of this checkout."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## From your data to transcripts\n.*?```sh\n(.*?)```", text, re.S)
    assert block
    commands = block[1]
    for shown, run in SMALLER.items():
        assert shown in commands, f"the example no longer holds {shown!r}"
        commands = commands.replace(shown, run, 1)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for name, target in scripts.items():
        module, function = target.split(":")
        code = f"import sys; from {module} import {function}; sys.exit({function}())"
        commands = re.sub(rf"^{name} ", f"python -c '{code}' ", commands, flags=re.M)
    return re.sub(r"^python ", f"{sys.executable} ", commands, flags=re.M)


def test_the_worked_example_of_the_readme(tmp_path: Path) -> None:
    for folder in ("docs", "launch", "ds_configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SPEAKERLM_CACHE": str(CACHE), "OMP_NUM_THREADS": "1"}
    environment["DS_ACCELERATOR"] = "cpu"
    ran = subprocess.run(
        ["bash", "-ex", "-c", example()], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    mine = tmp_path / "mine"
    assert '"faults": 0' in ran.stdout
    rows = json.loads((mine / "scores" / "scores.json").read_text())
    assert {(row["mode"], row["test_set"]) for row in rows} == {("no", "test"), ("match", "test")}
    assert (mine / "model" / "model.safetensors").exists()
    assert list((mine / "transcripts").glob("*.seglst.json"))
