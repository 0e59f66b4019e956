"""An input that fits an orchestration, so that the first command a person copies works."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect as types

_SIMPLE: dict[type[types.Type], Any] = {
    types.StrType: "text",
    types.IntType: 1,
    types.FloatType: 1.5,
    types.BoolType: True,
    types.NoneType: None,
    types.DateTimeType: "2030-01-01T00:00:00Z",
    types.DateType: "2030-01-01",
    types.UUIDType: "00000000-0000-4000-8000-000000000000",
    types.DecimalType: "1.5",
    types.TimeDeltaType: "PT1M",
    types.BytesType: "",
}


def sample_input(orchestration: Callable[..., Any]) -> str | None:
    """JSON text of an input that fits the function's annotations; None if it takes none, or none can be made up."""
    try:
        hints = typing.get_type_hints(orchestration)
        names = list(inspect.signature(orchestration).parameters)[1:]
        values = {name: _sample(types.type_info(hints.get(name, Any))) for name in names}
    except (TypeError, NameError, ValueError, RecursionError):
        return None
    if not values:
        return None
    value = values if len(values) > 1 else values[names[0]]
    return msgspec.json.encode(value).decode()


def _sample(kind: types.Type) -> Any:
    match kind:
        case types.ListType() | types.SetType() | types.FrozenSetType() | types.VarTupleType():
            return [_sample(kind.item_type)]
        case types.TupleType():
            return [_sample(item) for item in kind.item_types]
        case types.StructType() | types.DataclassType() | types.TypedDictType() | types.NamedTupleType():
            fields = {field.encode_name: _sample(field.type) for field in kind.fields if field.required}
            return list(fields.values()) if isinstance(kind, types.NamedTupleType) else fields
        case types.DictType():
            return {}
        case types.EnumType():
            return next(iter(kind.cls)).value
        case types.LiteralType():
            return kind.values[0]
        case types.UnionType():
            return _sample(kind.types[0])
        case _:
            return _SIMPLE.get(type(kind))
