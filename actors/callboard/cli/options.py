"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from callboard.cli.logs import LogLevel

AppTarget: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="MODULE:APP", help="Your App, for example examples.hello_sequence:app.", show_default=False),
]
HubName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--hub", envvar="CALLBOARD_HUB", help="The task hub, instead of the one that the App names.", show_default=False
    ),
]
BrokerUrl: TypeAlias = Annotated[
    str,
    typer.Option(
        "--broker",
        envvar="CALLBOARD_BROKER",
        metavar="URL",
        help="amqp://user:password@host/vhost, amqps://…, or sqlite:///file",
        show_default=False,
    ),
]
StoreUrl: TypeAlias = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="CALLBOARD_STORE",
        metavar="URL",
        help="mongodb://user:password@host/database, or sqlite:///file",
        show_default=False,
    ),
]
Host: TypeAlias = Annotated[str, typer.Option(help="The address to listen on.")]
Port: TypeAlias = Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")]
AllowRemote: TypeAlias = Annotated[
    bool, typer.Option("--allow-remote", help="Listen on addresses that others can reach, without authentication.")
]
Processes: TypeAlias = Annotated[int, typer.Option(min=1, max=512, help="How many worker processes to keep running.")]
Only: TypeAlias = Annotated[
    Literal["activities", "orchestrations"] | None, typer.Option(help="Run only these.", show_default="both")
]
Queues: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="An activity queue to serve; may be repeated.", show_default="those the App's activities name"),
]
Concurrency: TypeAlias = Annotated[int, typer.Option(min=1, help="How many activities run at a time in a process.")]
Partitions: TypeAlias = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Into how many partitions a new hub is divided.", show_default="32")
]
Drain: TypeAlias = Annotated[float, typer.Option(min=0, help="Seconds to finish what is in hand when stopping.")]
Retain: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[STATUS=]AGE",
        help="Delete instances so long after they have ended (30d, 12h, 90m), all or those of a status; may be repeated.",
        show_default="for ever",
    ),
]
DataFolder: TypeAlias = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", file_okay=False, help="The folder that keeps the data of `callboard dev`."),
]
MetricsPort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        envvar="CALLBOARD_METRICS_PORT",
        min=1,
        max=65535,
        help="Show metrics for Prometheus at http://HOST:PORT/metrics; with several processes, on a port each from this one on.",
        show_default=False,
    ),
]
MetricsHost: TypeAlias = Annotated[
    str,
    typer.Option("--metrics-host", envvar="CALLBOARD_METRICS_HOST", help="The address that metrics are shown on."),
]
Otlp: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--otlp",
        metavar="URL",
        help="Send traces to an OpenTelemetry receiver, such as Jaeger: http://host:4318, or http://host:4317 for gRPC. "
        "OTEL_* variables are heeded, with and without.",
        show_default=False,
    ),
]
Level: TypeAlias = Annotated[LogLevel, typer.Option("--log-level", help="Which log lines to print, on stderr.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs, not a table for people.")]
