"""The model's source files as an exported folder carries them: flat, importing one another by relative names.

transformers loads such files with ``trust_remote_code``: it copies what ``config.json`` names in ``auto_map`` and
whatever that imports with ``from .name import``. So each file is the project's own with its imports renamed, and what
only type checkers read is omitted. transformers refuses to load a folder if a package is missing that a file imports
outside ``try``: packages that only audio files and enrolment need are imported inside one.
"""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from pipeline.model.optional_packages import OPTIONAL
from shards.errors import ModelError

ROOTS = (
    "pipeline.model.configuration_speakerlm",
    "pipeline.transcribe.exported_speakerlm",
    "pipeline.transcribe.pipeline_speakerlm",
)
OURS = ("pipeline.", "shards.")


def write_code(folder: Path) -> list[str]:
    """Write every file that the exported model needs to run; returns their names.

    Raises:
        ModelError: two of them have the same name.
    """
    done: dict[str, str] = {}
    todo = list(ROOTS)
    while todo:
        module = todo.pop()
        name = f"{module.rsplit('.', 1)[1]}.py"
        if done.setdefault(name, module) != module:
            raise ModelError(f"{module} and {done[name]} cannot both be {name} in one folder")
        if (folder / name).exists():
            continue
        text, needed = relocated(Path(_origin(module)).read_text(encoding="utf-8"))
        (folder / name).write_text(text, encoding="utf-8")
        todo += sorted(needed)
    return sorted(done)


def relocated(source: str) -> tuple[str, set[str]]:
    """Source with our absolute imports made relative and blocks under ``if TYPE_CHECKING`` removed; what it imports.

    Raises:
        ModelError: it imports one of our packages in a way that cannot be made relative.
    """
    lines = source.splitlines(keepends=True)
    needed: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for i in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[i] = ""
    kept = ast.parse("".join(line or "\n" for line in lines))
    for node in ast.walk(kept):
        if isinstance(node, ast.Import) and any(a.name.startswith(OURS) for a in node.names):
            raise ModelError(f"line {node.lineno}: write 'from module import name', so that it can be exported")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(OURS):
            old, new = f"from {node.module} import", f"from .{node.module.rsplit('.', 1)[1]} import"
            lines[node.lineno - 1] = lines[node.lineno - 1].replace(old, new)
            needed.add(node.module)
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and (name := _optional(node)):
            lines[node.lineno - 1 : node.end_lineno] = _tried(lines[node.lineno - 1 : node.end_lineno], name)
    return "".join(lines), needed


def _optional(node: ast.Import | ast.ImportFrom) -> str | None:
    """Return the name of the optional package that a statement imports."""
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return next((OPTIONAL[top] for n in names if (top := n.split(".")[0]) in OPTIONAL), None)


def _tried(lines: list[str], package: str) -> list[str]:
    """An import inside ``try``, as one element per line that it had, so that the numbers of other lines hold."""
    pad = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    inner = "".join(f"    {line}" for line in lines)
    message = f'"{package} is needed and not installed: pip install {package}"'
    whole = f"{pad}try:\n{inner}{pad}except ImportError as error:\n{pad}    raise ImportError({message}) from error\n"
    return [whole, *[""] * (len(lines) - 1)]


def _origin(module: str) -> str:
    import_module(module.rsplit(".", 1)[0])
    spec = find_spec(module)
    if spec is None or not spec.origin:
        raise ModelError(f"the source of {module} is not on this machine; export from an installed checkout")
    return spec.origin
