"""Declared types, as what decodes values into them.

msgspec does it, and asks pydantic for its models. What msgspec cannot do with models in it (a union of two of them, a pydantic
dataclass) is left to pydantic alone, which is imported only where such a type is declared.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec


def decodable(expected: Any, dec_hook: Callable[[type, Any], Any]) -> Any:
    """What to decode into for a declared type: itself, a `pydantic.TypeAdapter`, or Any for what nobody can make."""
    if expected is None or expected is type(None):
        return Any
    plain = _known_to_msgspec(expected, dec_hook)
    parts = list(_parts(expected))
    if (plain or not any(map(_is_pydantic, parts))) and not any(map(_is_pydantic_dataclass, parts)):
        return expected if plain else Any
    return _adapter(expected)


def validator(expected: object) -> Callable[..., Any] | None:
    """What makes a value of a pydantic model, or of a `pydantic.TypeAdapter`, from JSON."""
    name = "model_validate_json" if isinstance(expected, type) else "validate_json"
    validate: Callable[..., Any] | None = getattr(expected, name, None)
    return validate


def _known_to_msgspec(expected: Any, dec_hook: Callable[[type, Any], Any]) -> bool:
    try:
        msgspec.json.Decoder(expected, dec_hook=dec_hook)
    except (TypeError, ValueError, NameError):  # an open TypeVar, a name that is not defined
        return False
    return True


def _adapter(expected: Any) -> Any:
    import pydantic  # noqa: PLC0415 - whoever declares such types has it

    try:
        return pydantic.TypeAdapter(expected)
    except pydantic.errors.PydanticSchemaGenerationError:
        return Any


def _parts(expected: Any) -> Iterator[Any]:
    yield expected
    for part in typing.get_args(expected):
        yield from _parts(part)


def _is_pydantic(part: Any) -> bool:
    return isinstance(part, type) and hasattr(part, "__pydantic_validator__")


def _is_pydantic_dataclass(part: Any) -> bool:
    return dataclasses.is_dataclass(part) and _is_pydantic(part)
