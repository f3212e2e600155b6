"""Typed schemas of JSON rows that other tools write: NeMo, SegLST, Emilia, WenetSpeech, and this project's own form.

A schema is a pydantic model. A value of the wrong type is an error that names the field; keys that the schema does not
know are counted in the audit, so that a misspelt or foreign key is visible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from shards.errors import ManifestError
from shards.manifests.audit import Audit
from shards.manifests.text_policy import is_encodable

NOT_AVAILABLE = "<NA>"  # of NIST's formats, and of pandas


def text_of(value: object) -> str:
    """Return a transcript; numbers are read as written, ``<NA>`` is no words.

    Raises:
        ValueError: null, NaN, a list or another type.
    """
    if isinstance(value, str):
        return "" if value.strip() == NOT_AVAILABLE else value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise ValueError(f"{_shown(value)}, expected a text")


def name_of(value: object) -> str | None:
    """Return a name, without spaces around it; None for null, NaN, ``<NA>`` and "": unknown.

    Raises:
        ValueError: a list or another type, or a lone surrogate in the name.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        if not is_encodable(value):
            raise ValueError(f"{_shown(value)} has a lone surrogate, half a character")
        name = value.strip()  # "ann " of a table is no second person
        return None if name in ("", NOT_AVAILABLE) else name
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise ValueError(f"{_shown(value)}, expected a name")


def seconds_of(value: object) -> float:
    """Return a finite number of seconds, also from a numeral in quotes.

    Raises:
        ValueError: anything else.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{_shown(value)}, expected seconds")
    return number


def _shown(value: object) -> str:
    """Describe a value; containers by their type, since they may be nested a hundred thousand times."""
    if value is None or isinstance(value, bool):
        return f"is {str(value).lower().replace('none', 'null')}"
    return f"is a {type(value).__name__}" if isinstance(value, list | dict) else f"is {str(value)[:40]!r}"


Text = Annotated[str, BeforeValidator(text_of)]
OptionalText = Annotated[str | None, BeforeValidator(text_of)]  # None only as a default, for a key that is absent
Name = Annotated[str | None, BeforeValidator(name_of)]
Seconds = Annotated[float, BeforeValidator(seconds_of)]
OptionalSeconds = Annotated[float | None, BeforeValidator(lambda v: None if v is None else seconds_of(v))]
Path = Annotated[str, Field(min_length=1)]  # pydantic refuses a lone surrogate here
Identifier = Annotated[str, BeforeValidator(lambda v: str(v) if type(v) is int else v), Field(min_length=1)]
Channel = Annotated[int | None, Field(ge=0)]


class Row(BaseModel):
    """A row of a foreign file. Subclasses declare its fields."""

    model_config = ConfigDict(extra="allow")
    unused: ClassVar[frozenset[str]] = frozenset()  # keys that are known and not needed

    def unknown(self) -> Iterator[str]:
        """Yield the keys that the schema does not know."""
        yield from (key for key in self.model_extra or () if key not in self.unused)


R = TypeVar("R", bound=Row)


def parse_row(schema: type[R], value: Any, audit: Audit, where: str) -> R:
    """Check a row and count its unknown keys.

    Raises:
        ManifestError: the row is not of the form; names the field.
    """
    try:
        row = schema.model_validate(value)
    except ValidationError as error:
        faults = (_fault(found) for found in error.errors(include_url=False, include_input=False))
        raise ManifestError(f"{where}: {', '.join(faults)}") from error
    for key in row.unknown():
        audit.unknown_key(key, where)
    return row


def _fault(found: Any) -> str:
    place = ".".join(map(str, found["loc"])) or "the row"
    message = str(found["msg"]).removeprefix("Value error, ")
    return f"{place} {message}" if found["type"] == "value_error" else f"{place}: {message}"
