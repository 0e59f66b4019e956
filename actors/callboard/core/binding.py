"""How an input becomes the arguments of a function: by its annotations."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from callboard.core import payloads
from callboard.core.events import Payload
from callboard.errors import InvalidPayloadError, RegistrationError


class Binding:
    """How an input becomes arguments: one parameter takes it as it is; several take a JSON object by name; none ignores it."""

    def __init__(self, function: Callable[..., Any], what: str, *, skip: int) -> None:
        self._what = f"The input of {what}"
        parameters = list(inspect.signature(function).parameters.values())
        if len(parameters) < skip:
            raise RegistrationError(
                f"{what} takes no parameter, but needs one for its context: def {function.__name__}(context, …)."
            )
        hints = _hints(function, what)
        self.result_type = payloads.decodable(hints.get("return", Any))
        self._parameters: dict[str, tuple[Any, bool]] = {}
        for parameter in parameters[skip:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise RegistrationError(f"{what} has a *{parameter.name} parameter: name each parameter instead.")
            optional = parameter.default is not parameter.empty
            self._parameters[parameter.name] = (payloads.decodable(hints.get(parameter.name, Any)), optional)

    def bind(self, payload: Payload | None) -> dict[str, Any]:
        """Decodes an input into keyword arguments.

        Raises:
            InvalidPayloadError: it does not fit; says which parameter and why.
        """
        match len(self._parameters):
            case 0:
                return {}
            case 1:
                (name, (expected, optional)), *_ = self._parameters.items()
                if payload is None and optional:
                    return {}
                return {name: payloads.decode(payload, expected, self._what)}
            case _:
                return self._bind_by_name(payload)

    def _bind_by_name(self, payload: Payload | None) -> dict[str, Any]:
        given: dict[str, msgspec.Raw] = payloads.decode(payload or "{}", dict[str, msgspec.Raw], self._what)
        unknown = sorted(given.keys() - self._parameters.keys())
        missing = sorted(name for name, (_, optional) in self._parameters.items() if not optional and name not in given)
        if unknown or missing:
            raise InvalidPayloadError(
                f"{self._what} must be a JSON object with {', '.join(self._parameters)}"
                + (f"; missing: {', '.join(missing)}" if missing else "")
                + (f"; not known: {', '.join(unknown)}" if unknown else "")
            )
        return {
            name: payloads.decode(bytes(raw).decode(), self._parameters[name][0], f"{self._what}, {name!r},")
            for name, raw in given.items()
        }


def _hints(function: Callable[..., Any], what: str) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError) as error:
        raise RegistrationError(
            f"The annotations of {what} cannot be resolved: {error}. Types that are only imported under TYPE_CHECKING are not there "
            "at run time: import them always."
        ) from error
