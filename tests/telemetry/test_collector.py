"""Traces of several processes, as a real collector receives them, over gRPC and over HTTP."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import Running, ask, running, serving, until_true
from tests.telemetry.collector import Collector, collecting
from tests.telemetry.trees import tree

ROOT = Path(__file__).parents[2]
APP = "tests.telemetry.programs:app"
#: A trace that events come from.
BUTTON = "a" * 32

HELLO = tree("""
    PRODUCER create_orchestration:hello_sequence
      SERVER orchestration:hello_sequence Completed
        CLIENT activity:say_hello
          SERVER activity:say_hello
        CLIENT activity:say_hello
          SERVER activity:say_hello
        CLIENT activity:say_hello
          SERVER activity:say_hello
""")
CHILD = """
        CLIENT orchestration:hello_sequence
          SERVER orchestration:hello_sequence Completed
            CLIENT activity:say_hello
              SERVER activity:say_hello"""
PARENT = tree(f"""
    PRODUCER create_orchestration:parent
      SERVER orchestration:parent Completed{CHILD}{CHILD}
""")
WAITING = tree("""
    PRODUCER create_orchestration:waiting
      SERVER orchestration:waiting Completed
        CONSUMER orchestration_event:name
        CONSUMER orchestration_event:whom
        INTERNAL orchestration:waiting:timer
        PRODUCER orchestration_event:name
""")
FAILING = tree("""
    PRODUCER create_orchestration:failing
      SERVER orchestration:failing Failed ERROR
        CLIENT activity:decline ERROR
          SERVER activity:decline ERROR
""")
NESTING = tree("""
    PRODUCER create_orchestration:nesting
      SERVER orchestration:nesting Completed
        CLIENT activity:work_in_a_thread
          SERVER activity:work_in_a_thread
            INTERNAL inner job
        CLIENT activity:work_in_the_loop
          SERVER activity:work_in_the_loop
            INTERNAL inner JOB.0
            INTERNAL inner JOB.1
""")
GENERATION = """
        CLIENT activity:say_hello
          SERVER activity:say_hello"""
ETERNAL = tree(f"""
    PRODUCER create_orchestration:eternal
      SERVER orchestration:eternal ContinuedAsNew{GENERATION}
      SERVER orchestration:eternal ContinuedAsNew{GENERATION}
      SERVER orchestration:eternal Completed{GENERATION}
""")
STUBBORN = tree("""
    PRODUCER create_orchestration:stubborn
      SERVER orchestration:stubborn Completed
        CLIENT activity:say_hello
          SERVER activity:say_hello
        CLIENT activity:hold
          SERVER activity:hold
        CLIENT activity:say_hello
          SERVER activity:say_hello
""")


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with collecting(tmp_path) as running_collector:
        yield running_collector


@pytest.fixture
def servers(amqp_url: str, mongodb_url: str, hub: str) -> dict[str, str]:
    return {
        "CALLBOARD_BROKER": amqp_url,
        "CALLBOARD_STORE": mongodb_url,
        "CALLBOARD_HUB": hub,
        "OTEL_SERVICE_NAME": "shop",
    }


def start(url: str, name: str, instance_id: str, value: object = None) -> None:
    assert ask("POST", f"{url}/api/orchestrators/{name}/{instance_id}", value)[0] == 202


def finish(url: str, instance_id: str) -> None:
    until_true(lambda: ask("GET", f"{url}/runtime/webhooks/durabletask/instances/{instance_id}")[0] == 200)


def raise_event(url: str, instance_id: str, name: str, value: object) -> None:
    """By a request that belongs to a trace of its own."""
    path = f"{url}/runtime/webhooks/durabletask/instances/{instance_id}/raiseEvent/{name}"
    headers = {"Content-Type": "application/json", "traceparent": f"00-{BUTTON}-{'b' * 16}-01"}
    request = urllib.request.Request(path, json.dumps(value).encode(), headers, method="POST")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 202


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_whole_trees_arrive_from_several_processes(
    collector: Collector, servers: dict[str, str], protocol: str
) -> None:
    receiver = collector.url(protocol)
    otlp = ["--otlp", receiver] if protocol == "http" else []  # a shortcut, and the standard variables
    variables = (
        servers
        if otlp
        else {
            **servers,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }
    )
    with (
        running(ROOT, "worker", APP, "--only", "orchestrations", *otlp, **variables) as orchestrating,
        running(ROOT, "worker", APP, "--only", "activities", *otlp, **variables) as acting,
        serving(ROOT, "serve", APP, *otlp, **variables) as (_, url),
    ):
        for worker in (orchestrating, acting):
            worker.until_says("is ready")
        start(url, "hello_sequence", "hello", ["Tokyo", "Seattle", "London"])
        start(url, "parent", "parent")
        start(url, "waiting", "waiting")
        start(url, "failing", "failing")
        start(url, "nesting", "nesting", "job")
        start(url, "eternal", "eternal", 2)
        raise_event(url, "waiting", "name", "Ada")
        raise_event(url, "waiting", "whom", "nobody")
        hello = collector.shows("hello", HELLO)
        collector.shows("parent", PARENT)
        waiting = collector.shows("waiting", WAITING, by_name=True)
        failing = collector.shows("failing", FAILING)
        nesting = collector.shows("nesting", NESTING)
        collector.shows("eternal", ETERNAL)
        (taken,) = waiting.named("orchestration_event:name", "CONSUMER")
        ((trace_id, span_id),) = taken.links
        assert trace_id == BUTTON
        until_true(lambda: span_id in {span.span_id for span in collector.spans})
    forests = [collector.forest(each) for each in ("hello", "parent", "waiting", "failing", "nesting", "eternal")]
    assert [forest.repeated for forest in forests] == [[]] * 6
    assert {span.resource["service.name"] for span in hello.spans.values()} == {"shop"}
    assert len({span.resource["process.pid"] for span in hello.spans.values()}) == 3
    (run,) = failing.named("activity:decline", "SERVER")
    assert run.events[0][1]["exception.message"] == "order 1 is declined"
    (inner,) = nesting.named("inner job")
    assert inner.attributes == {"who": "None"}


def test_a_request_with_a_trace_is_the_root_and_one_process_can_be_all(collector: Collector, tmp_path: Path) -> None:
    with serving(ROOT, "dev", APP, "--data", str(tmp_path), "--otlp", collector.url("http")) as (dev, url):
        start(url, "hello_sequence", "hello", ["Tokyo", "Seattle", "London"])
        forest = collector.shows("hello", HELLO)
        assert {span.resource["service.name"] for span in forest.spans.values()} == {"traced"}
        start(url, "hello_sequence", "last", ["Tokyo", "Seattle", "London"])
        finish(url, "last")
        assert dev.stop() == 0
    collector.shows("last", HELLO)  # what was not sent yet is sent at the end


def test_activities_whose_worker_is_killed_twice_are_in_the_tree_once(
    collector: Collector, servers: dict[str, str], tmp_path: Path
) -> None:
    servers |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url("grpc"), "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    otlp: list[str] = []
    with (
        running(ROOT, "worker", APP, "--only", "orchestrations", *otlp, **servers) as orchestrating,
        serving(ROOT, "serve", APP, *otlp, **servers) as (_, url),
    ):
        orchestrating.until_says("is ready")
        start(url, "stubborn", "stubborn", str(tmp_path))
        for kills in range(2):
            with running(ROOT, "worker", APP, "--only", "activities", *otlp, **servers) as acting:
                until_true(lambda: len(list(tmp_path.glob("begun-*"))) == kills + 1)  # noqa: B023 - called at once
                if kills == 0:  # the first activity's own span is in the hands of the one that is killed
                    until_true(lambda: bool(collector.forest("stubborn").named("activity:say_hello", "SERVER")))
                acting.process.send_signal(signal.SIGKILL)
                acting.process.wait()
        (tmp_path / "leave").touch()
        with running(ROOT, "worker", APP, "--only", "activities", *otlp, **servers):
            finish(url, "stubborn")
            forest = collector.shows("stubborn", STUBBORN)
    assert forest.repeated == []


def test_an_orchestration_whose_worker_is_killed_twice_is_a_whole_tree(
    collector: Collector, servers: dict[str, str], tmp_path: Path
) -> None:
    steps, log = 60, tmp_path / "steps"
    otlp = ["--otlp", collector.url("http")]

    def done() -> int:
        return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0

    with (
        running(ROOT, "worker", APP, "--only", "activities", *otlp, **servers) as acting,
        serving(ROOT, "serve", APP, *otlp, **servers) as (_, url),
    ):
        acting.until_says("is ready")
        workers = [_orchestrating(otlp, servers)]
        try:
            start(url, "long_way", "long", {"folder": str(tmp_path), "steps": steps})
            for enough in (15, 30):
                until_true(lambda: done() >= enough)  # noqa: B023 - called at once
                workers[-1].process.send_signal(signal.SIGKILL)  # with the spans of its last steps
                workers[-1].process.wait()
                workers.append(_orchestrating(otlp, servers))
            finish(url, "long")
            until_true(lambda: bool(collector.forest("long").named("orchestration:long_way")))
            until_true(lambda: len(collector.forest("long").named("activity:step", "SERVER")) == done())
        finally:
            for worker in workers:
                worker.end()
    forest = collector.forest("long")
    told = {
        span.attributes["durabletask.task.task_id"]: span.resource["process.pid"]
        for span in forest.named("activity:step", "CLIENT")
    }
    assert not forest.orphans, (
        f"{sorted({span.attributes['durabletask.task.task_id'] for span in forest.orphans})} hang in the air; told of: {told}"
    )
    calls = forest.named("activity:step", "CLIENT")
    assert sorted(call.attributes["durabletask.task.task_id"] for call in calls) == list(range(steps))
    (whole,) = forest.named("orchestration:long_way")
    assert {call.parent_id for call in calls} == {whole.span_id}
    assert {run.parent_id for run in forest.named("activity:step", "SERVER")} == {call.span_id for call in calls}
    (create,) = forest.named("create_orchestration:long_way")
    assert whole.parent_id == create.span_id


def _orchestrating(otlp: list[str], servers: dict[str, str]) -> Running:
    return Running(ROOT, "worker", APP, "--only", "orchestrations", *otlp, **servers)
