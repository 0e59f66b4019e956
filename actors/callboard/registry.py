"""Name → function: what a worker can run, and how values are bound to parameters."""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

import msgspec

from callboard.activity import ActivityContext, ActivityOptions
from callboard.codecs import check_codec
from callboard.core.binding import Binding
from callboard.core.calls import CallTarget
from callboard.core.codec import Content
from callboard.core.context import OrchestrationContext
from callboard.core.entities import is_entity
from callboard.core.execution import Unrunnable
from callboard.core.http_calls import BUILT_IN_QUEUE
from callboard.core.instances import check_queue_name
from callboard.core.turn import TurnRules
from callboard.core.versions import VersionRule, compare, newest
from callboard.entities import EntityDefinition
from callboard.errors import (
    ActivityNotRegisteredError,
    EntityNotRegisteredError,
    InvalidPayloadError,
    OrchestrationNotRegisteredError,
    RegistrationError,
)
from callboard.replay_logging import ReplaySafeLogger
from callboard.trigger import Trigger

#: What the names of activity queues begin with that programs in other languages serve.
FOREIGN_QUEUE = "json."
#: Longest name of an activity, an orchestration or a queue, in characters.
MAX_NAME = 100
#: How the names of what is built in begin.
RESERVED = "BuiltIn::"

#: A function that gets a token: ``async def`` or ``def``.
TokenSource: TypeAlias = Callable[[], Awaitable[str] | str]


class OrchestrationDefinition:
    """A registered orchestrator function; ``version`` is the one that it is registered for, if any."""

    def __init__(
        self, name: str, function: Callable[..., Any], version: str | None = None, codec: str | None = None
    ) -> None:
        self.name = name
        self.function = function
        self.version = version
        self.codec = check_codec(codec)
        self._binding = Binding(function, f"orchestration {name!r}", skip=1)
        self.target = CallTarget(name=name, result_type=self._binding.result_type, version=version, codec=codec)

    def invoke(self, context: OrchestrationContext, payload: Content | None) -> Any:
        """Calls the function with its decoded input."""
        return self.function(context, **self._binding.bind(payload))

    def logger(
        self, logger: logging.Logger | None, marks: dict[str, str], quiet: Callable[[], bool]
    ) -> ReplaySafeLogger:
        """A replay-safe logger; of the function's module, if none is given."""
        return ReplaySafeLogger(logger or logging.getLogger(self.function.__module__), marks, quiet)


class ActivityDefinition:
    """A registered activity function."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        queue: str,
        codec: str | None = None,
        options: ActivityOptions = ActivityOptions(),  # noqa: B008 - frozen
    ) -> None:
        self.name = name
        self.function = function
        self.queue = queue
        self.codec = check_codec(codec)
        self.options = options
        self.is_async = inspect.iscoroutinefunction(function)
        self._binding = Binding(function, f"activity {name!r}", skip=0, handed=ActivityContext)
        self.target = CallTarget(
            name=name, queue=queue, result_type=self._binding.result_type, codec=codec, timeouts=options.timeouts
        )

    def invoke(self, payload: Content | None, context: ActivityContext | None = None) -> Any:
        """Calls the function with its decoded input: a coroutine, or for a plain function its result."""
        handed = {} if self._binding.handed is None else {self._binding.handed: context}
        return self.function(**self._binding.bind(payload), **handed)


class Activities(Protocol):
    """Finds an activity to run."""

    def knows_activity(self, name: str) -> bool: ...

    def require_activity(self, name: str) -> ActivityDefinition:
        """Raises ActivityNotRegisteredError for names that are not registered."""
        ...


class Registry:
    """All functions of an app; also resolves what orchestrations call (`callboard.core.execution.CallTargets`)."""

    def __init__(self) -> None:
        self.versions = VersionRule()
        self.rules = TurnRules()
        self.orchestrations: dict[str, OrchestrationDefinition] = {}
        """What runs a new instance that is started by name: of several versions, the default one."""
        self.activities: dict[str, ActivityDefinition] = {}
        self.entities: dict[str, EntityDefinition] = {}
        self.token_sources: dict[str, TokenSource] = {}
        """What gets the tokens that ``call_http`` names."""
        self.foreign_activities: dict[str, CallTarget] = {}
        self.triggers: list[Trigger] = []
        self._versions: dict[str, dict[str | None, OrchestrationDefinition]] = {}
        self._names: dict[tuple[str, Callable[..., Any]], str] = {}
        self._versions_of: dict[Callable[..., Any], list[str | None]] = {}

    def add_orchestration(self, definition: OrchestrationDefinition) -> None:
        versions = self._versions.setdefault(definition.name, {})
        same = next((version for version in versions if compare(version, definition.version) == 0), definition.version)
        _add(versions, same, definition, "orchestration")
        self._names["orchestration", definition.function] = definition.name
        self._versions_of.setdefault(definition.function, []).append(definition.version)
        self.orchestrations[definition.name] = self._default(versions)

    def orchestration_versions(self, name: str) -> tuple[str | None, ...]:
        """The versions that a name is registered for; None stands for code without one."""
        return tuple(self._versions.get(name, ()))

    def all_orchestrations(self) -> list[OrchestrationDefinition]:
        """Every version of every orchestration, in order of registration."""
        return [definition for versions in self._versions.values() for definition in versions.values()]

    def code_for(self, name: str, version: str | None) -> OrchestrationDefinition | Unrunnable:
        """The code that runs an instance of that name and version."""
        versions = self._versions.get(name)
        if versions is None:
            return Unrunnable(
                f"No worker that is alive knows the orchestration {name!r}. Deploy one that registers it; the instance then goes on by "
                "itself."
            )
        chosen = self.versions.choose(versions, version)
        if chosen is not None:
            return versions[chosen.version]
        return Unrunnable(self._mismatch(name, version), fails=self.versions.failure == "fail")

    def runs(self, instance_id: str, name: str, version: str | None) -> bool:
        """Whether there is code here for an instance of that orchestration and version, or for that entity."""
        if is_entity(instance_id):
            return name in self.entities
        return isinstance(self.code_for(name, version), OrchestrationDefinition)

    def new_version(self, target: object) -> str | None:
        """The version of an instance that is started, of a function or a name, without one."""
        own = self._versions_of.get(typing.cast("Callable[..., Any]", target), ()) if callable(target) else ()
        if any(own):
            return newest(own)
        return self.versions.default_for(self._versions.get(self.name_of("orchestration", target), ()))

    def _default(self, versions: dict[str | None, OrchestrationDefinition]) -> OrchestrationDefinition:
        chosen = self.versions.choose(versions, self.versions.default_for(versions))
        return versions[chosen.version] if chosen else next(iter(versions.values()))

    def _mismatch(self, name: str, version: str | None) -> str:
        has = ", ".join(repr(each) if each else "without a version" for each in self.orchestration_versions(name))
        needs = f"version {version!r}" if version else "an instance that was started without a version"
        rule = self.versions
        return (
            f"No worker that is alive runs {needs} of the orchestration {name!r}; this one has it {has}"
            + (f", as version {rule.default!r} ({rule.match})" if rule.match != "none" else "")
            + f". Deploy one that does, beside the others: @app.orchestration(version={version!r}); the instance then goes on by itself."
        )

    def add_activity(self, definition: ActivityDefinition) -> None:
        _add(self.activities, definition.name, definition, "activity")
        self._names["activity", definition.function] = definition.name

    def add_entity(self, definition: EntityDefinition) -> None:
        _add(self.entities, definition.name, definition, "entity")
        self._names["entity", definition.function] = definition.name

    def require_entity(self, name: str) -> EntityDefinition:
        """Raises EntityNotRegisteredError for names that are not registered."""
        definition = self.entities.get(name)
        if definition is None:
            raise EntityNotRegisteredError(name, list(self.entities))
        return definition

    def require_orchestration(self, name: str) -> OrchestrationDefinition:
        """Raises OrchestrationNotRegisteredError for names that are not registered."""
        definition = self.orchestrations.get(name)
        if definition is None:
            raise OrchestrationNotRegisteredError(name, list(self.orchestrations))
        return definition

    def knows_activity(self, name: str) -> bool:
        return name in self.activities

    def require_activity(self, name: str) -> ActivityDefinition:
        """Raises ActivityNotRegisteredError for names that are not registered."""
        definition = self.activities.get(name)
        if definition is None:
            raise ActivityNotRegisteredError(name, list(self.activities))
        return definition

    def add_token_source(self, name: str, function: TokenSource) -> None:
        if self.token_sources.setdefault(name, function) is not function:
            raise RegistrationError(f"Two functions are registered as token source {name!r}. Give one another name.")

    def activity(self, target: object) -> CallTarget:
        """Resolves an activity that code calls; a name that is not registered here may be so in another worker."""
        name = self.name_of("activity", target)
        definition = self.activities.get(name)
        if definition is not None:
            return definition.target
        return self.foreign_activities.get(name) or CallTarget(name=check_name(name, "activity"))

    def orchestration(self, target: object, version: str | None = None) -> CallTarget:
        """Resolves an orchestration that code calls, and its version."""
        name = self.name_of("orchestration", target)
        version = version or self.new_version(target)
        versions = self._versions.get(name, {})
        chosen = self.versions.choose(versions, version)
        known = versions[chosen.version].target if chosen else CallTarget(name=check_name(name, "orchestration"))
        return known if known.version == version else msgspec.structs.replace(known, version=version)

    def name_of(self, kind: str, target: object) -> str:
        """The name a function is registered under; a name stays what it is."""
        if isinstance(target, str):
            return target
        name = self._names.get((kind, typing.cast("Callable[..., Any]", target))) if callable(target) else None
        if name is None:
            label = getattr(target, "__qualname__", repr(target))
            raise RegistrationError(
                f"{label} is not registered as {_article(kind)} of this app: decorate it with @app.{kind}."
            )
        return name

    @property
    def codecs(self) -> set[str | None]:
        """The codecs that functions name; None stands for the app's."""
        orchestrations = {definition.codec for definition in self.all_orchestrations()}
        others = {definition.codec for definition in (*self.activities.values(), *self.entities.values())}
        return orchestrations | others

    def queues(self) -> tuple[str, ...]:
        """The activity queues that this app's activities are registered with, and the one of those that are built in."""
        return tuple(sorted({BUILT_IN_QUEUE, *(definition.queue for definition in self.activities.values())}))

    def add_foreign_activity(self, target: CallTarget) -> None:
        """An activity that programs in other languages serve: it is called by name."""
        check_name(target.name, "activity")
        if target.name in self.activities:
            raise RegistrationError(f"{target.name!r} is registered as an activity of this app already.")
        self.foreign_activities[target.name] = target


def check_name(name: str, kind: str) -> str:
    """Returns the name of a function or queue unchanged when it is allowed.

    Raises:
        RegistrationError: empty, over 100 characters, or holding whitespace, a control character, a slash, ``#``, ``?`` or ``@``.
    """
    if not name or len(name) > MAX_NAME or any(c.isspace() or not c.isprintable() or c in "/\\#?@" for c in name):
        raise RegistrationError(
            f"{name[:64]!r} cannot name {_article(kind)}: use 1 to {MAX_NAME} characters, without spaces and / \\ # ? @."
        )
    return name


def check_version(version: str | None) -> str | None:
    """Returns a version unchanged when it is allowed (the empty one as None); raises RegistrationError otherwise."""
    if version and (len(version) > MAX_NAME or not version.isprintable() or version != version.strip()):
        raise RegistrationError(
            f"{version[:64]!r} cannot be a version: use up to {MAX_NAME} printable characters, best numbers with dots, as in '2.1'."
        )
    return version or None


def check_queue(name: str) -> str:
    """Returns the name of an activity queue unchanged when it is allowed; raises RegistrationError otherwise."""
    try:
        return check_queue_name(name)
    except InvalidPayloadError as error:
        raise RegistrationError(str(error)) from None


def _add(
    known: dict[Any, Any],
    key: object,
    definition: OrchestrationDefinition | ActivityDefinition | EntityDefinition,
    kind: str,
) -> None:
    if check_name(definition.name, kind).startswith(RESERVED):
        raise RegistrationError(f"{definition.name!r} cannot name {_article(kind)} of an app: {RESERVED}… is built in.")
    existing = known.get(key)
    if existing is not None and existing.function is not definition.function:
        other = (
            "name or version: @app.orchestration(version=…)"
            if kind == "orchestration"
            else f"name: @app.{kind}(name=…)"
        )
        raise RegistrationError(
            f"Two functions are registered as {kind} {definition.name!r}: {_where(existing.function)} and "
            f"{_where(definition.function)}. Give one another {other}."
        )
    known[key] = definition


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
