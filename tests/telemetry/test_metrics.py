"""Metrics: what is counted, how Prometheus and OpenTelemetry see it, and where it is shown."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from callboard import App, Client, OrchestrationContext, RetryPolicy, TaskHub, Worker
from callboard.instruments import Instrument, client_instruments, worker_instruments
from callboard.prometheus import exposition, prometheus_name
from callboard.statistics import Histogram, NamedCounts, NamedHistograms
from callboard.telemetry import Telemetry
from tests.cli.processes import ask, running, serving, shop, until_true
from tests.servers.process import free_port

app = App("counted", partitions=2)
attempts: list[int] = []


@app.activity
async def work(n: int) -> int:
    return n


@app.activity
async def at_second_try(n: int) -> int:
    attempts.append(n)
    if len(attempts) % 2:
        raise ValueError("not yet")
    return n


@app.orchestration
async def counted(context: OrchestrationContext, again: int) -> int:
    await context.call_activity(work, 1)
    retry = RetryPolicy(first_retry_interval=0.001, max_number_of_attempts=2)
    await context.call_activity(at_second_try, 2, retry=retry)
    if again:
        return context.continue_as_new(again - 1)  # type: ignore[no-any-return]
    return 3


SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="(\\.|[^"\\])*"(,[a-z_]+="(\\.|[^"\\])*")*\})? ([0-9.e+-]+|NaN)')


def values(text: str) -> dict[str, float]:
    """Samples by name and labels; checks the form of every line."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            assert SAMPLE.fullmatch(line), line
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


async def test_what_a_worker_does_is_counted(tmp_path: Path) -> None:
    url, reader = f"sqlite:///{tmp_path / 'hub.db'}", InMemoryMetricReader()
    telemetry = Telemetry(meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    async with (
        TaskHub.from_urls("counted", broker=url, store=url, partitions=2) as hub,
        Worker(app, hub, telemetry=telemetry) as worker,
        Client(hub, app) as client,
    ):
        started = await client.start(counted, 1)
        assert await started.result(timeout=30) == 3
        shown = values(exposition([*worker_instruments(worker), *client_instruments(client)]))
    assert shown['callboard_orchestration_started_total{name="counted"}'] == 1
    assert shown['callboard_orchestration_ended_total{name="counted",status="ContinuedAsNew"}'] == 1
    assert shown['callboard_orchestration_ended_total{name="counted",status="Completed"}'] == 1
    assert shown['callboard_client_starts_total{name="counted"}'] == 1
    assert shown['callboard_activity_ended_total{name="at_second_try",outcome="failed"}'] == 2
    assert shown['callboard_activity_ended_total{name="at_second_try",outcome="completed"}'] == 2
    assert shown['callboard_activity_retries_total{name="at_second_try"}'] == 2
    assert shown['callboard_activity_duration_seconds_count{name="work"}'] == 2
    assert shown['callboard_activity_wait_seconds_bucket{name="work",le="+Inf"}'] == 2
    assert shown["callboard_timer_lateness_seconds_count"] == 2
    assert shown["callboard_commit_total"] == shown["callboard_commit_batch_sum"] > 5
    assert shown["callboard_turn_duration_seconds_count"] == shown["callboard_turn_total"]
    assert shown["callboard_turn_hot_total"] > 3
    assert shown['callboard_partition_changes_total{change="gained"}'] == 2
    assert shown["callboard_partition_owned"] == 2
    for name in ("broker_blocked", "publish_unconfirmed", "mailbox_messages", "quarantine_messages_total"):
        assert shown[f"callboard_{name}"] == 0
    told = collected(reader)
    assert told["callboard.orchestration.ended"] == {("counted", "Completed"): 1, ("counted", "ContinuedAsNew"): 1}
    assert told["callboard.commit.count"] == {(): shown["callboard_commit_total"]}
    assert told["callboard.turn.duration"] == {(): shown["callboard_turn_total"]}
    assert told["callboard.activity.duration"] == {("work",): 2, ("at_second_try",): 4}


def collected(reader: InMemoryMetricReader) -> dict[str, dict[tuple[Any, ...], float]]:
    data: Any = reader.get_metrics_data()
    points: dict[str, Any] = {
        metric.name: metric.data.data_points
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    return {
        name: {
            tuple(point.attributes[key] for key in sorted(point.attributes)): float(
                point.count if hasattr(point, "count") else point.value
            )
            for point in each
        }
        for name, each in points.items()
    }


def test_a_histogram_is_cumulative_and_its_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 3.0):
        histogram.observe(value)
    instrument = Instrument(name="a.b", kind="histogram", unit="s", description="x", read=lambda: [({}, histogram)])
    assert exposition([instrument]).splitlines()[2:] == [
        'a_b_seconds_bucket{le="1"} 2',
        'a_b_seconds_bucket{le="2"} 3',
        'a_b_seconds_bucket{le="+Inf"} 4',
        "a_b_seconds_sum 6",
        "a_b_seconds_count 4",
    ]


def test_what_people_name_things_cannot_break_the_format_or_fill_memory() -> None:
    counts, histograms = NamedCounts(), NamedHistograms()
    counts.add('a"b\\c\nd')
    for n in range(1_000):
        counts.add(str(n))
        histograms.observe(str(n), 1.0)
    assert len(counts.counts) <= 201
    assert len(histograms.by_name) <= 201
    assert counts.counts["other", ""] == 1_000 - 199
    instrument = Instrument(
        name="a",
        kind="counter",
        unit="1",
        description="line\nbreak \\",
        read=lambda: [({"name": name}, count) for (name, _), count in counts.counts.items()],
    )
    shown = values(exposition([instrument]))
    assert shown['a_total{name="a\\"b\\\\c\\nd"}'] == 1


def read(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_api_shows_metrics_with_those_of_its_worker(tmp_path: Path) -> None:
    with serving(shop(tmp_path), "dev", "shop:app") as (_, url):
        assert ask("POST", f"{url}/api/orchestrators/order/one?timeout=30", "tea")[0] == 200
        status, text = read(f"{url}/metrics")
        assert status == 200
        shown = values(text)
        assert shown['callboard_client_starts_total{name="order"}'] == 1
        assert shown['callboard_orchestration_ended_total{name="order",status="Completed"}'] == 1
        names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(names) == len(set(names))


def test_each_worker_process_shows_its_metrics(tmp_path: Path, amqp_url: str, mongodb_url: str, hub: str) -> None:
    servers = {"CALLBOARD_BROKER": amqp_url, "CALLBOARD_STORE": mongodb_url, "CALLBOARD_HUB": hub}
    port = free_port()
    arguments = ["worker", "shop:app", "--processes", "2", "--metrics-port", str(port)]
    with running(shop(tmp_path), *arguments, **servers) as workers:
        workers.until_says("2 workers are ready")
        urls = [f"http://127.0.0.1:{port + number}" for number in range(2)]
        until_true(lambda: sum(values(read(f"{url}/metrics")[1])["callboard_partition_owned"] for url in urls) == 4)
        assert read(f"{urls[0]}/healthz")[0] == 200
        assert read(f"{urls[0]}/other")[0] == 404
        request = urllib.request.Request(f"{urls[0]}/metrics", b"", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(request, timeout=30)
        with running(tmp_path, "worker", "shop:app", "--metrics-port", str(port), **servers) as another:
            another.until_says(f"--metrics-port: port {port} of 127.0.0.1 cannot be used")


def test_names_are_those_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "watching.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(callboard_\w+)`", page, re.MULTILINE))
    assert documented == {prometheus_name(each) for each in all_instruments()}


def all_instruments() -> list[Instrument]:
    class Anything:
        def __getattr__(self, name: str) -> Any:
            return Anything()

    found = [*worker_instruments(Anything()), *client_instruments(Anything())]
    return list({each.name: each for each in found}.values())
