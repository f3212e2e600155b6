"""Terms that a user names for the prompt's line of context, and which models can read one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from shards.errors import ConfigError

MOST, LONGEST = 100, 60  # terms of a prompt, from all sources, and characters of a term
HELP = (
    "names and terms that may be said, for a model that was trained with data.context: 'Zoe Li, ZeRO-3', or a text "
    "file with one a line"
)
_REMARK = re.compile(r"(?:^|\s)#")  # but C# is a term
_BETWEEN = re.compile(r"[,;\n，、；。]")


def split_terms(text: str) -> tuple[str, ...]:
    """Split a text at commas, semicolons and line ends into distinct terms.

    Raises:
        ConfigError: too many terms, or one too long or not printable.
    """
    return check_terms([part for line in text.splitlines() for part in _BETWEEN.split(line)])


def joined_terms(own: Sequence[str], general: Sequence[str]) -> tuple[str, ...]:
    """Return a prompt's own terms, then those of every prompt, each of them once.

    Raises:
        ConfigError: together they are too many.
    """
    terms = tuple(dict.fromkeys([*own, *general]))
    if len(terms) > MOST:
        raise ConfigError(
            f"the context has {len(terms)} terms, with {len(general)} of --context that every prompt gets; at most "
            f"{MOST} are taken"
        )
    return terms


def read_terms(value: str | None) -> tuple[str, ...]:
    """Return the terms of ``--context``: those of a file, or of the text itself.

    Raises:
        ConfigError: the file is missing or unreadable, or terms as of :func:`split_terms`.
    """
    if value is None:
        return ()
    path = Path(value)
    if not (path.suffix == ".txt" or _is_file(path)):
        found = split_terms(value)
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror or e if isinstance(e, OSError) else f"not UTF-8 ({e})"
            raise ConfigError(f"--context {path}: {reason}; name a text file with one term a line") from e
        found = check_terms([_REMARK.split(line, maxsplit=1)[0] for line in lines])
    if not found:
        raise ConfigError(f"--context {value!r} names no term")
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that cannot be a name
        return False


def check_terms(parts: Sequence[str]) -> tuple[str, ...]:
    """Return distinct terms as prompts have them.

    Raises:
        ConfigError: too many terms, or one too long or not printable.
    """
    from pipeline.prompts import NOT_ON_ONE_LINE, clean_text

    terms = tuple(dict.fromkeys(term for part in parts if (term := clean_text(part))))
    if len(terms) > MOST:
        raise ConfigError(f"the context has {len(terms)} terms; at most {MOST} are taken")
    for term in terms:
        if len(term) > LONGEST:
            raise ConfigError(
                f"the context's term {term[:20]!r}… has {len(term)} characters, at most {LONGEST} are taken: "
                "name terms, with commas between them"
            )
        if NOT_ON_ONE_LINE.search(term):
            raise ConfigError(f"the context's term {term!r} has characters that are not printable")
    return terms


def reads_context(folder: Path) -> bool:
    """Return whether a finished run or an exported model was trained with a line of context.

    Raises:
        ModelError, ConfigError: neither a run nor an exported model.
    """
    if (folder / "config.yaml").exists():
        from pipeline.recipe.load import load_recipe

        return load_recipe(folder / "config.yaml").data.context.share > 0
    from pipeline.model.exported import exported_config

    return bool(exported_config(folder).get("context"))


def require_context(folder: Path, given: bool, option: str = "--context") -> None:
    """Refuse an option that names terms for a model that was not trained with them: it has never read such a prompt.

    Raises:
        ConfigError: such a model.
        ModelError: neither a run nor an exported model.
    """
    if given and not reads_context(folder):
        raise ConfigError(
            f"{folder} was not trained with a line of context: leave {option} out, or train with data.context.share "
            "above 0"
        )
