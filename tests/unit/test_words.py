"""Plain technical English in docstrings, comments, messages, test names and pages: a list of phrases to avoid."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("shards", "pipeline", "launch", "benchmarks", "tests")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "launch", "ds_configs", "benchmarks")
HERE = Path(__file__).relative_to(ROOT)

_UNIT = (
    r"line|row|file|rank|step|process|person|clip|node|sample|shard|second|speaker|turn|token|column|folder|entry|call|"
    r"micro-batch|dataset|recording|stage|run|mode|word|name|corpus|session|minute|hour|card|module"
)
# Each phrase and what is usually meant.
PHRASES = {
    r"\btold\b(?! (apart|from))": "reported, logged, warned, passed",
    r"\b(is|are|was|were) (?-i:none)\b(?! of)": "is not one, is missing, is invalid",
    r"\banew\b": "again",
    r"\bas (it|they) stands?\b": "unchanged",
    r"\bbesides\b": "also, in addition, other than",
    r"\bwhere there (is|are) (one|none|any|some)\b": "if it exists, if any",
    r"\bwhere (it|they|he|she) stands?\b": "the position",
    r"\bmet nobody\b": "rendezvous timed out",
    r"\b(is|are) lent\b": "ephemeral, allocated",
    r"\b(pass|passed|passes|passing) over\b": "skip",
    r"\b(leave|left|leaves|leaving) out\b": "skip, omit",
    r"\b(lie|lies|lay|lying) (beside|in|there|under|on|where|along)\b": "is stored",
    r"\b(go|goes|going|went) on\b": "continue",
    r"\bdearest\b": "most expensive",
    r"\bnobody\b": "no one, no speaker, no rank",
    r"\bwhat (it|they|a run) (is|are) worth\b": "evaluation",
    r"\bthereof\b": "of it",
    r"\bwho(m)?ever\b": "any caller",
    r"\bno longer there\b": "missing, was removed",
    rf"\b(a|one) ({_UNIT}) (a|an|each) \w+": "one … per …",
}
BANNED = {re.compile(pattern, re.I): meant for pattern, meant in PHRASES.items()}
RIDDLES = re.compile(r"(What|Where|How|Who|That|Why|When|Whose) ")  # a docstring's first line is no question


def phrases(text: str) -> list[str]:
    """What should be said otherwise, with a proposal."""
    return [f"{m[0]!r}: {meant}" for pattern, meant in BANNED.items() for m in pattern.finditer(text)]


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of strings (docstrings, messages), comments and names of tests; code around them is no text."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING:
            literal = token.string
            if re.match(r"\w*[fF]", literal):  # code in braces is no text
                literal = re.sub(r"\{[^{}]*\}", "{}", literal)
            yield token.start[0], re.sub(r"\s+", " ", literal)
        elif token.type == tokenize.COMMENT:
            yield token.start[0], token.string
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            yield token.start[0], token.string.replace("_", " ")


def python_files() -> list[Path]:
    return [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py")) if p != ROOT / HERE]


def pages() -> list[Path]:
    found = [ROOT / page for page in PAGES]
    return [p for f in found for p in (sorted(f.rglob("*.md")) if f.is_dir() else [f]) if p.is_file()]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _hits(path: Path) -> list[str]:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [f"{name_of(path)}:{n}: {hit}" for n, text in texts(source) for hit in phrases(text)]
    return [f"{name_of(path)}:{n}: {hit}" for n, line in enumerate(source.splitlines(), 1) for hit in phrases(line)]


@pytest.mark.parametrize("path", [*python_files(), *pages()], ids=name_of)
def test_text_is_plain_english(path: Path) -> None:
    hits = _hits(path)
    assert not hits, "\n" + "\n".join(hits)


def documented(tree: ast.Module) -> Iterator[tuple[str, int, str | None]]:
    """Name, line and docstring of a module and of its public classes and functions, methods included."""
    yield "module", 1, ast.get_docstring(tree)
    nodes: list[tuple[str, ast.AST]] = [("", n) for n in tree.body]
    while nodes:
        prefix, node = nodes.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield prefix + node.name, node.lineno, ast.get_docstring(node)
            if isinstance(node, ast.ClassDef):
                nodes += [(f"{node.name}.", n) for n in node.body]


@pytest.mark.parametrize("path", [p for p in python_files() if p.parts[len(ROOT.parts)] != "tests"], ids=name_of)
def test_modules_and_public_functions_have_docstrings(path: Path) -> None:
    if path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip():
        return
    found = list(documented(ast.parse(path.read_text(encoding="utf-8"))))
    top = [f"{name_of(path)}:{line}: {name}" for name, line, doc in found if doc is None and "." not in name]
    assert not top, "no docstring:\n" + "\n".join(top)
    riddles = [
        f"{name_of(path)}:{line}: {name}: {doc.splitlines()[0]}"
        for name, line, doc in found
        if doc and RIDDLES.match(doc)
    ]
    assert not riddles, "say it as an imperative or a noun phrase:\n" + "\n".join(riddles)


def test_the_check_sees_phrases_and_not_code() -> None:
    source = (
        'def test_it_is_told():\n    """A line a clip."""\n    assert x is None  # goes on\n    f"{told} is none"\n'
    )
    assert [n for n, text in texts(source) for _ in phrases(text)] == [1, 2, 3, 4]
    assert not [hit for _, text in texts("told = nobody is None\nf'{anew}'\n") for hit in phrases(text)]
