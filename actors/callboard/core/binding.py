"""How an input becomes the arguments of a function: by its annotations."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from callboard.core import payloads
from callboard.core.codec import Content, load
from callboard.errors import InvalidPayloadError, RegistrationError


class Binding:
    """How an input becomes arguments: one parameter takes it as it is; several take a JSON object by name; none ignores it.

    Args:
        function: Whose parameters.
        what: How errors name it.
        skip: How many of the first parameters are not for the input.
        handed: A parameter annotated with this class is not for the input either; ``self.handed`` is its name.
        without: Nor are these parameters, by name.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        what: str,
        *,
        skip: int,
        handed: type | None = None,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self._what = f"The input of {what}"
        parameters = list(inspect.signature(function).parameters.values())
        if len(parameters) < skip:
            raise RegistrationError(
                f"{what} takes no parameter, but needs one for its context: def {function.__name__}(context, …)."
            )
        hints = hints_of(function, what)
        self.result_type = payloads.decodable(hints.get("return", Any))
        self._parameters: dict[str, tuple[Any, bool]] = {}
        self._positional = any(each.kind is each.POSITIONAL_ONLY for each in parameters)
        self.handed: str | None = None
        for parameter in parameters[skip:]:
            if parameter.name in without:
                continue
            if handed is not None and hints.get(parameter.name) is handed:
                self.handed = parameter.name
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise RegistrationError(f"{what} has a *{parameter.name} parameter: name each parameter instead.")
            optional = parameter.default is not parameter.empty
            self._parameters[parameter.name] = (payloads.decodable(hints.get(parameter.name, Any)), optional)

    def call(self, function: Callable[..., Any], content: Content | None) -> Any:
        """Calls the function with a decoded input; builtins (``todo.append``) take theirs by position only."""
        arguments = self.bind(content)
        if not self._positional:
            return function(**arguments)
        return function(*(arguments[name] for name in self._parameters if name in arguments))

    def bind(self, content: Content | None) -> dict[str, Any]:
        """Decodes an input into keyword arguments; what a pickle holds is taken as it is.

        Raises:
            InvalidPayloadError: it does not fit; says which parameter and why.
        """
        match len(self._parameters):
            case 0:
                return {}
            case 1:
                (name, (expected, optional)), *_ = self._parameters.items()
                if content is None and optional:
                    return {}
                return {name: load(content, expected, self._what)}
            case _ if content is None or isinstance(content, str):
                given = payloads.decode(content or "{}", dict[str, msgspec.Raw], self._what)
                self._check_names(given)
                return {name: self._decode(name, bytes(raw).decode()) for name, raw in given.items()}
            case _:
                return self._take_by_name(load(content, Any, self._what))

    def _decode(self, name: str, text: str) -> Any:
        return payloads.decode_json(text, self._parameters[name][0], f"{self._what}, {name!r},")

    def _take_by_name(self, given: object) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            raise InvalidPayloadError(f"{self._what} must be a dict with {', '.join(self._parameters)}")
        by_name = dict(typing.cast("Mapping[str, Any]", given))
        self._check_names(by_name)
        return by_name

    def _check_names(self, given: Mapping[str, Any]) -> None:
        unknown = sorted(given.keys() - self._parameters.keys())
        missing = sorted(name for name, (_, optional) in self._parameters.items() if not optional and name not in given)
        if unknown or missing:
            raise InvalidPayloadError(
                f"{self._what} must be a JSON object with {', '.join(self._parameters)}"
                + (f"; missing: {', '.join(missing)}" if missing else "")
                + (f"; not known: {', '.join(unknown)}" if unknown else "")
            )


def hints_of(function: Callable[..., Any], what: str) -> Mapping[str, Any]:
    """The types that a function declares; raises RegistrationError if they cannot be resolved."""
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError) as error:
        raise RegistrationError(
            f"The annotations of {what} cannot be resolved: {error}. Types that are only imported under TYPE_CHECKING are not there "
            "at run time: import them always."
        ) from error
