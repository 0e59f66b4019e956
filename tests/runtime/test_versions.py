"""Several versions of one orchestration in one app: which code starts, runs, and is called."""

from __future__ import annotations

from typing import Any

import pytest

from callboard import App, Blueprint, OrchestrationContext
from callboard.core.execution import Unrunnable
from callboard.errors import ConfigurationError, RegistrationError
from callboard.registry import OrchestrationDefinition, Registry
from tests.runtime.support import Stage, eventually

pytestmark = pytest.mark.usefixtures("fast")


def two_versions(**options: Any) -> App:
    app = App("stage", **options)

    @app.orchestration(name="greet", version="1.0")
    async def greet_first(context: OrchestrationContext, name: str) -> str:
        await context.wait_for_external_event("go")
        return f"{context.version}: Hello {name}"

    @app.orchestration(name="greet", version="2.0")
    async def greet(context: OrchestrationContext, name: str) -> str:
        await context.wait_for_external_event("go")
        return f"{context.version}: Good day {name}"

    return app


def function_of(registry: Registry, name: str, version: str | None) -> str:
    code = registry.code_for(name, version)
    return code.function.__name__ if isinstance(code, OrchestrationDefinition) else code.reason


def test_each_version_runs_its_own_code() -> None:
    registry = two_versions().registry
    assert function_of(registry, "greet", "1.0") == "greet_first"
    assert function_of(registry, "greet", "2") == "greet"
    assert registry.orchestrations["greet"].version == "2.0"
    assert {registry.new_version("greet"), registry.orchestration("greet").version} == {"2.0"}
    assert two_versions(default_version="1.0").registry.new_version("greet") == "1.0"


def test_a_function_is_called_in_its_own_version_and_a_name_in_the_apps() -> None:
    app = App("stage", default_version="1.0")

    @app.orchestration(name="f", version="0.9")
    async def old(context: OrchestrationContext) -> int:
        return 1

    @app.orchestration(name="f")
    async def new(context: OrchestrationContext) -> str:
        return ""

    @app.orchestration
    async def other(context: OrchestrationContext) -> None: ...

    registry = app.registry
    assert (registry.orchestration(old).version, registry.orchestration(old).result_type) == ("0.9", int)
    assert (registry.orchestration(new).version, registry.orchestration(new).result_type) == ("1.0", str)
    assert (registry.orchestration("f", "0.9").version, registry.orchestration("f", "0.9").result_type) == ("0.9", int)
    assert registry.orchestration("f").result_type is str
    assert registry.orchestration(other).version == "1.0"
    assert registry.orchestration("elsewhere").version == "1.0"
    assert registry.orchestration("f", "7").version == "7"


def test_one_function_may_be_several_versions() -> None:
    app = App("stage")

    @app.orchestration(name="f", version="1.1")
    @app.orchestration(name="f", version="1.0")
    async def f(context: OrchestrationContext) -> None: ...

    assert app.registry.orchestration_versions("f") == ("1.0", "1.1")
    assert app.registry.new_version(f) == "1.1"


def test_two_functions_for_one_version_are_refused() -> None:
    app, blueprint = two_versions(), Blueprint()

    @blueprint.orchestration(name="greet", version="2.0.0")
    async def f(context: OrchestrationContext) -> None: ...

    with pytest.raises(RegistrationError, match=r"as orchestration 'greet'.*@app\.orchestration\(version=…\)"):
        app.include(blueprint)


def test_a_blueprint_brings_all_its_versions() -> None:
    app = App("stage", default_version="1.0")
    app.include(two_versions())
    assert app.registry.orchestration_versions("greet") == ("1.0", "2.0")
    assert app.registry.new_version("greet") == "1.0"
    assert app.registry.orchestrations["greet"].version == "1.0"


@pytest.mark.parametrize("version", [" 1", "1\n", "x" * 101])
def test_what_cannot_be_a_version_is_refused(version: str) -> None:
    async def f(context: OrchestrationContext) -> None: ...

    with pytest.raises(RegistrationError, match="cannot be a version"):
        App("stage").orchestration(version=version)(f)
    with pytest.raises(RegistrationError, match="cannot be a version"):
        App("stage", default_version=version)


def test_strategies_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'newer' is none of 'none', 'strict', 'current_or_older'"):
        App("stage", version_match_strategy="newer")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="'reject', 'fail'"):
        App("stage", version_failure_strategy="ignore")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_what_is_not_here_says_what_is_and_what_to_do() -> None:
    registry = two_versions(default_version="1.5", version_failure_strategy="fail").registry
    missing = registry.code_for("greet", "3.0")
    assert isinstance(missing, Unrunnable)
    assert missing.fails
    assert "runs version '3.0' of the orchestration 'greet'; this one has it '1.0', '2.0'" in missing.reason
    assert "@app.orchestration(version='3.0')" in missing.reason
    nameless = registry.code_for("nobody", "3.0")
    assert isinstance(nameless, Unrunnable)
    assert not nameless.fails, "a name that is missing is no mismatch of versions"


async def test_versions_run_beside_each_other_and_survive_a_new_owner() -> None:
    async with Stage() as stage:
        first = await stage.worker(two_versions())
        client = await stage.client(two_versions())
        old = await client.start("greet", "Ann", instance_id="a", version="1.0")
        new = await client.start("greet", "Ben", instance_id="b")
        assert (await client.get_status("b")).version == "2.0"
        await eventually(lambda: stage.events("b"))
        await eventually(lambda: stage.events("a"))
        first.kill()
        await stage.worker(two_versions())
        for each in "ab":
            await client.raise_event(each, "go")
        assert await old.result(5) == "1.0: Hello Ann"
        assert await new.result(5) == "2.0: Good day Ben"


async def test_one_of_a_version_that_nobody_has_fails_or_waits_as_the_app_says() -> None:
    async with Stage() as stage:
        await stage.worker(two_versions(default_version="2.0", version_failure_strategy="fail"))
        client = await stage.client()
        await client.start("greet", "Ann", instance_id="a", version="3.0")
        status = await client.wait("a", 5)
        assert status.failure is not None
        assert (status.runtime_status, status.failure.error_type) == ("Failed", "VersionMismatch")


async def test_a_client_of_the_app_stamps_its_default_version() -> None:
    async with Stage() as stage:
        app = App("stage", default_version="4.2")

        @app.orchestration
        async def shows(context: OrchestrationContext) -> list[Any]:
            mine = context.version
            return [
                mine,
                await context.call_sub_orchestration("other"),
                await context.call_sub_orchestration("other", version="1"),
            ]

        @app.orchestration
        async def other(context: OrchestrationContext) -> str | None:
            return context.version

        await stage.worker(app)
        client = await stage.client(app)
        assert await (await client.start(shows)).result(5) == ["4.2", "4.2", "1"]
        assert await (await client.start(shows, version="3")).result(5) == ["3", "4.2", "1"]


async def test_code_that_does_not_fit_fails_its_instances_where_the_app_says_so() -> None:
    def app_that_calls(activity: str) -> App:
        app = App("stage", on_nondeterminism="fail")

        @app.orchestration
        async def calls(context: OrchestrationContext) -> Any:
            context.call_activity(activity, queue="far")
            return await context.wait_for_external_event("go")

        return app

    with pytest.raises(ConfigurationError, match="'park', 'fail'"):
        App("stage", on_nondeterminism="ignore")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    async with Stage() as stage:
        first = await stage.worker(app_that_calls("one"))
        client = await stage.client()
        await client.start("calls", instance_id="a")
        await eventually(lambda: stage.events("a"))
        first.kill()
        await stage.worker(app_that_calls("two"))
        await client.raise_event("a", "go")
        status = await client.wait("a", 5)
        assert status.failure is not None
        assert (status.runtime_status, status.failure.error_type) == ("Failed", "NonDeterminism")
