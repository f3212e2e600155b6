"""launch → pipeline → shards, and never back. Reads the import statements; nothing is imported."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "shards": ("pipeline", "launch", "tests", "deepspeed", "transformers", "peft", "torch.distributed"),
    "pipeline": ("launch", "tests"),
}
# What the pipeline may take from the packer: records, where they lie, how they sound, who speaks; what commands share.
SHARED = {
    "arguments",
    "commands",
    "errors",
    "extractors",
    "sample",
    "index",
    "storage",
    "audio",
    "cache",
    "clips",
    "reader",
    "speakers",
    "funasr_modules",
    "textgrid",
    "vad_weights",
    "workers",
    "package_weights",
    "parquet",
}
ONLY_HERE = {"boto3": "shards/storage/s3_client.py", "botocore": "shards/storage/s3_client.py"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import; name the package"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


FILES = [p for room in FORBIDDEN for p in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    names = imported(path)
    wrong = sorted(n for n in names for f in FORBIDDEN[room] if is_in(n, f))
    assert not wrong, f"{room} must not import {wrong}"
    if room == "pipeline":
        parts = {n.split(".")[1] for n in names if is_in(n, "shards") and "." in n}
        assert parts <= SHARED, f"pipeline takes only {sorted(SHARED)} from shards, not {sorted(parts - SHARED)}"


def test_object_storage_has_one_door() -> None:
    users = {str(p.relative_to(ROOT)) for p in FILES for n in imported(p) if n.split(".")[0] in ONLY_HERE}
    assert users <= set(ONLY_HERE.values())


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from pipeline.train.trainer import train\n    import torch.distributed as d\n")
    names = imported(bad)
    assert any(is_in(n, "pipeline") for n in names)
    assert any(is_in(n, "torch.distributed") for n in names)


def test_launch_is_no_package_and_shadows_no_module() -> None:
    import sys

    names = {p.stem for p in (ROOT / "launch").glob("*.py")}
    assert "__init__" not in names
    assert not names & set(sys.stdlib_module_names)
