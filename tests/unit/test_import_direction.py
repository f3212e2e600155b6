"""launch → pipeline → shards, lower floors below higher ones, no circles. Reads import statements; imports nothing."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "shards": ("pipeline", "launch", "tests", "benchmarks", "deepspeed", "transformers", "peft", "torch.distributed"),
    "pipeline": ("launch", "tests", "benchmarks"),
    "benchmarks": ("tests",),
}
# Rooms (folders and top files of a package) by floor, bottom to top. A room imports from its own floor and below.
FLOORS = {
    "shards": (
        ("errors", "sample", "spool", "arguments", "commands", "workers", "plugins"),
        ("storage", "sound"),
        ("weights",),
        ("manifests",),
        ("voices",),
        ("dataset",),
        ("packing", "corpora"),
        ("prepare",),
        ("simulation",),
        ("cli",),
    ),
    "pipeline": (
        ("stages", "cards", "frames", "encoder_calls", "flops", "prompts"),
        ("recipe", "dialogue"),
        ("ranks",),
        ("data", "model"),
        ("checkpoint",),
        ("evaluation", "reasoner"),
        ("decode",),
        ("train",),
        ("standins", "export", "preflight", "transcribe", "baselines", "serve"),
    ),
}
# Rooms of shards that pipeline takes from. Packing, corpora, simulation and the commands are not its business.
SHARED = {"arguments", "commands", "errors", "plugins", "sample", "workers"} | {
    "dataset",
    "manifests",
    "sound",
    "storage",
    "voices",
    "weights",
}
ONLY_HERE = {"boto3": "shards/storage/s3_client.py", "botocore": "shards/storage/s3_client.py"}
NO_TORCH = ("pipeline/evaluation",)
# Rooms, floors, imports between rooms of each package: what was reached. Fewer is better, more fails.
REACHED = {"pipeline": (22, 9, 94), "shards": (18, 10, 61)}


@cache
def imported(path: Path) -> frozenset[str]:
    """Names that a file imports, those for type checkers included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import; name the package"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


FILES = [p for package in FORBIDDEN for p in sorted((ROOT / package).rglob("*.py"))]


@cache
def graph(package: str) -> dict[str, set[str]]:
    """Modules of a package and which of its modules each imports."""
    files = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        found[module] = set()
        for name in imported(path):
            target = name
            while target and target not in files:
                target = target.rpartition(".")[0]
            # `from a.b import c` names both a.b and a.b.c: where c is a module, a.b itself is not what is used
            if target and target not in (package, module) and not (target == name and _is_package(files[name])):
                found[module].add(target)
    return found


def _is_package(path: Path) -> bool:
    return path.name == "__init__.py" and not path.read_text(encoding="utf-8").count("\ndef ")


def room(module: str) -> str:
    return module.split(".")[1]


def rooms(package: str) -> dict[str, set[str]]:
    """Rooms of a package and which of its rooms each imports."""
    found: dict[str, set[str]] = {}
    for module, targets in graph(package).items():
        if module != package:
            found.setdefault(room(module), set()).update(room(t) for t in targets if room(t) != room(module))
    return found


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of two or more nodes each of which reaches the others (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in edges.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in index:
            visit(node)
    return sorted(found)


def floor(package: str, name: str) -> int:
    return next(i for i, names in enumerate(FLOORS[package]) if name in names)


def upward(package: str) -> list[str]:
    """Imports of a higher room, file by file."""
    return sorted(
        f"{module} imports {target}"
        for module, targets in graph(package).items()
        for target in targets
        if module != package and floor(package, room(target)) > floor(package, room(module))
    )


# --------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    names = imported(path)
    wrong = sorted(n for n in names for f in FORBIDDEN[package] if is_in(n, f))
    assert not wrong, f"{package} must not import {wrong}"
    if package == "pipeline":
        parts = {n.split(".")[1] for n in names if is_in(n, "shards") and "." in n}
        assert parts <= SHARED, f"pipeline takes only {sorted(SHARED)} from shards, not {sorted(parts - SHARED)}"


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_has_a_floor(package: str) -> None:
    listed = [name for names in FLOORS[package] for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(rooms(package))


@pytest.mark.parametrize("package", FLOORS)
def test_no_room_imports_a_higher_one(package: str) -> None:
    assert upward(package) == []


@pytest.mark.parametrize("package", FLOORS)
def test_no_circle_between_rooms(package: str) -> None:
    assert circles(rooms(package)) == []


@pytest.mark.parametrize("package", FLOORS)
def test_no_circle_between_files(package: str) -> None:
    assert circles(graph(package)) == []


@pytest.mark.parametrize("package", FLOORS)
def test_figures_of_the_house(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rooms, floors, imports between rooms: no more than were reached. ``pytest -s`` shows them."""
    edges = rooms(package)
    figures = len(edges), len(FLOORS[package]), sum(map(len, edges.values()))
    loops = len(circles(graph(package))) + len(circles(edges))
    with capsys.disabled():
        print(
            f"\n{package}/: {figures[0]} rooms · {figures[1]} floors · {figures[2]} imports between rooms · "
            f"{len(upward(package))} upward · {loops} circles"
        )
    assert all(now <= then for now, then in zip(figures, REACHED[package], strict=True))


def test_object_storage_has_one_door() -> None:
    files = [p for p in FILES if not p.is_relative_to(ROOT / "benchmarks")]
    users = {str(p.relative_to(ROOT)) for p in files for n in imported(p) if n.split(".")[0] in ONLY_HERE}
    assert users <= set(ONLY_HERE.values())


def test_scoring_imports_no_torch() -> None:
    users = {
        str(p.relative_to(ROOT))
        for folder in NO_TORCH
        for p in sorted((ROOT / folder).rglob("*.py"))
        for n in imported(p)
        if n.split(".")[0] in ("torch", "transformers", "deepspeed")
    }
    assert users == set()


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from pipeline.train.trainer import train\n    import torch.distributed as d\n")
    names = imported(bad)
    assert any(is_in(n, "pipeline") for n in names)
    assert any(is_in(n, "torch.distributed") for n in names)


def test_the_check_sees_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_launch_is_no_package_and_shadows_no_module() -> None:
    names = {p.stem for p in (ROOT / "launch").glob("*.py")}
    assert "__init__" not in names
    assert not names & set(sys.stdlib_module_names)


def test_the_fork_server_of_tests_preloads_modules_that_exist() -> None:
    """A fork server ignores what it cannot import, and every rank would import it again."""
    tree = ast.parse((ROOT / "tests" / "support" / "preload.py").read_text(encoding="utf-8"))
    names = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    ours = [n for n in names if n.split(".")[0] in ("pipeline", "shards", "tests") and " " not in n]
    assert len(ours) > 5
    assert [n for n in ours if not (ROOT / f"{n.replace('.', '/')}.py").is_file()] == []
