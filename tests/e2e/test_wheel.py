"""The wheel in an environment that never saw the checkout, next to other packages called pipeline and shards.

The wheel is built through an sdist, as `python -m build` does, and installed by pip into a new environment. The
packages that it depends on are those of the environment that runs this test: a .pth file adds their folder, because
installing them again would take minutes. That folder's own .pth files, such as the one of an editable install of the
checkout, have no effect there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.ranks.launch import free_port
from pipeline.recipe.load import dump_recipe
from tests.support.distributed import CPU, ROOT, run_distributed
from tests.support.training import make_parts, tiny_recipe

SOURCES = ("shards", "pipeline", "launch", "ds_configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
FOREIGN = ("shards", "pipeline")
BUILD = """
import os, sys, tarfile
from setuptools import build_meta
dist = sys.argv[1]  # setuptools changes the list
archive = os.path.join(dist, build_meta.build_sdist(dist))
with tarfile.open(archive) as tar:
    tar.extractall(dist, filter="data")
os.chdir(archive.removesuffix(".tar.gz"))
build_meta.build_wheel(dist)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the wheel, is not installed")
    tree, dist = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree)
    run([sys.executable, "-c", BUILD, dist], tree)
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the environment. In its packages are foreign ones, which say so if they are imported."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    interpreter = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", interpreter, "install", "-q", "--no-deps", "--no-index", wheel]
    run(pip, folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for name in FOREIGN:
        assert not (packages / name).exists(), f"the wheel would overwrite another package {name}"
        write_foreign(packages / name)
    return interpreter


def write_foreign(folder: Path) -> None:
    folder.mkdir()
    (folder / "__init__.py").write_text(f"print('the foreign {folder.name} was imported')")


def clean() -> dict[str, str]:
    """The environment without what leads to the checkout."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")} | CPU


def run(command: list[str | Path], cwd: Path, code: int = 0) -> str:
    done = subprocess.run(command, cwd=cwd, env=clean(), capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    assert "the foreign" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_holds_one_package_and_all_files(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"speakerlm"}
    wanted = [
        p for folder in ("shards", "pipeline") for p in (ROOT / folder).rglob("*") if "__pycache__" not in p.parts
    ]
    wanted += [*(ROOT / "ds_configs").glob("*.json"), *(ROOT / "launch" / "recipes").rglob("*.yaml")]
    assert {f"speakerlm/root/{p.relative_to(ROOT)}" for p in wanted if p.is_file()} <= set(names)


@pytest.mark.parametrize("tool", ["speakerlm", "speakerlm-train", "speakerlm-shards", "speakerlm-score"])
def test_commands_start_in_any_folder(python: Path, tool: str, tmp_path: Path) -> None:
    for name in FOREIGN:
        write_foreign(tmp_path / name)
    assert "usage: speakerlm" in run([python.parent / tool, "--help"], tmp_path)
    assert "speakerlm-pretrain 0." in run([python, "-m", "speakerlm", "--version"], tmp_path)


def test_recipes_are_listed_and_resolved_by_name(python: Path, tmp_path: Path) -> None:
    train = python.parent / "speakerlm-train"
    listed = run([train, "--list"], tmp_path).splitlines()
    names = {str(p.relative_to(ROOT / "launch" / "recipes").with_suffix("")) for p in RECIPES}
    assert {line.split()[0] for line in listed} == names
    assert all(len(line.split()) > 3 for line in listed)
    for recipe in ("speakerlm-7b/stage1", "launch/recipes/speakerlm-7b/stage1.yaml"):
        found = run([train, recipe, "--dry-run", "trainer.max_steps=3001"], tmp_path)
        assert "max_steps: 3001\n" in found
        assert '"train_batch_size": 4' in found
    assert "did you mean tiny/stage" in run([train, "tiny/stagel", "--dry-run"], tmp_path, code=1)


RECIPES = [p for p in (ROOT / "launch" / "recipes").glob("*/*.yaml") if not p.name.startswith("_")]


def test_three_steps_under_a_launcher(python: Path, tmp_path: Path) -> None:
    """The form for launchers; the recipe extends one of the package by its name."""
    parts = tmp_path / "parts"
    run_distributed(make_parts, 1, folder=str(parts))
    recipe = tiny_recipe(parts, tmp_path / "run", stage=1, max_steps=3, validate_every=10_000, save_every=10_000)
    recipe.data.workers, recipe.data.validation, recipe.deepspeed = 1, [], "ds_configs/zero3_cpu.json"
    (tmp_path / "mine.yaml").write_text(f"extends: tiny/stage1\n{dump_recipe(recipe)}")
    launcher = [python, "-m", "deepspeed.launcher.runner", "--num_accelerators", "1"]
    command = ["--master_port", str(free_port()), "--module", "speakerlm", "train", "mine.yaml"]
    run([*launcher, *command], tmp_path)
    assert json.loads((tmp_path / "run" / "done").read_text())["step"] == 3
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "train.jsonl").read_text().splitlines()]
    assert len(losses) == 3


def test_extensions_of_the_project_are_found(python: Path, tmp_path: Path) -> None:
    code = "import speakerlm; from shards.plugins import load_plugin; print(load_plugin('views', 'dialogue').__file__)"
    assert run([python, "-c", code], tmp_path).endswith("speakerlm/root/pipeline/dialogue/view.py\n")


def test_a_foreign_package_that_is_loaded_first_is_an_error(python: Path, tmp_path: Path) -> None:
    """Replacing it would break the program that loaded it."""
    code = "import shards\ntry:\n    import speakerlm\nexcept ImportError as e:\n    print(e.name, e.path, e)"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=clean(), capture_output=True, text=True, check=True)
    origin = next(python.parents[1].glob("lib/python*/site-packages/shards/__init__.py"))
    assert f"shards {origin} speakerlm needs its own package 'shards'" in done.stdout
    assert "is imported already: import speakerlm first" in done.stdout
