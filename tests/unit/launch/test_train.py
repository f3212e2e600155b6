"""`launch/train.py` as people start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "train.py"
RECIPE = ROOT / "launch" / "recipes" / "tiny" / "stage2.yaml"


def run(*arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={"PATH": "", **env}, capture_output=True, text=True, check=False
    )


def test_script_is_short() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 80


def test_help_and_dry_run_import_nothing_heavy() -> None:
    code = f"""
import runpy, sys
for arguments in (["--help"], [{str(RECIPE)!r}, "--dry-run"]):
    sys.argv = ["train.py", *arguments]
    try:
        runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
    except SystemExit as e:
        assert not e.code, e.code
heavy = {{"torch", "deepspeed", "transformers", "funasr", "numpy", "pyarrow"}} & sys.modules.keys()
print("heavy:", sorted(heavy))
"""
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "heavy: []"


def test_dry_run_prints_both_configurations_and_needs_no_weights() -> None:
    result = run(str(SCRIPT), "--dry-run", str(RECIPE), "trainer.max_steps=77", WORLD_SIZE="2")
    assert result.returncode == 0, result.stderr
    assert "max_steps: 77" in result.stdout
    assert "init_from: demo/exp/stage1" in result.stdout
    assert '"train_batch_size": 2' in result.stdout
    assert '"auto"' not in result.stdout  # in DeepSpeed's JSON


def test_a_wrong_key_is_reported_without_a_traceback() -> None:
    result = run(str(SCRIPT), str(RECIPE), "optimizer.peak_rl=1", "--dry-run")
    assert result.returncode == 1
    assert "did you mean optimizer.peak_lr?" in result.stderr
    assert "Traceback" not in result.stderr


def test_checkout_wins_over_foreign_packages_of_the_same_name(tmp_path: Path) -> None:
    for name in ("pipeline", "shards"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the foreign {name} was imported')")
        (tmp_path / name / "config.py").write_text("")
    result = run(str(SCRIPT), str(RECIPE), "--dry-run", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "foreign" not in result.stderr


@pytest.mark.parametrize("own", [{}, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}])
def test_segments_are_expandable_before_torch_is_imported(own: dict[str, str]) -> None:
    """torch reads the setting once. A user's is kept."""
    code = f"""
import builtins, os, runpy, sys
names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
imported = builtins.__import__
def spy(name, *rest, **more):
    if name.split(".")[0] == "torch":
        print("torch with", [os.environ[n] for n in names if n in os.environ])
        os._exit(0)
    return imported(name, *rest, **more)
builtins.__import__ = spy
sys.argv = ["train.py", {str(RECIPE)!r}]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    result = run("-u", "-c", code, **own)
    wanted = next(iter(own.values()), "expandable_segments:True")
    assert f"torch with ['{wanted}']" in result.stdout, result.stdout + result.stderr
