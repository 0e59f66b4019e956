"""The commands that run something: ``dev``, ``worker``, ``serve``."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from callboard.activities import CONCURRENCY
from callboard.app import App
from callboard.cli import acting, conversing, entities, looking, rejects
from callboard.cli.embedded import DEFAULT_FOLDER, DataFolder
from callboard.cli.listening import Listener
from callboard.cli.loading import load_app
from callboard.cli.logs import set_up_logs
from callboard.cli.options import (
    AllowRemote,
    AppTarget,
    BrokerUrl,
    Concurrency,
    DataFolder as DataFolderOption,
    Drain,
    Host,
    HubName,
    Level,
    MetricsHost,
    MetricsPort,
    Only,
    Otlp,
    Partitions,
    Port,
    Processes,
    Queues,
    Retain,
    StoreUrl,
)
from callboard.cli.problems import CommandError
from callboard.cli.retention import retention_of
from callboard.cli.running import Lifeline, run, until_stopped
from callboard.cli.supervising import Supervisor
from callboard.cli.watching import watched
from callboard.cli.working import check_servers, run_worker, say
from callboard.codecs.keys import Keys
from callboard.hub import TaskHub
from callboard.worker import DRAIN_DEADLINE, WorkerOptions

commands = typer.Typer(
    name="callboard",
    help="Durable orchestrations in plain Python, on RabbitMQ and MongoDB, or on a file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: callboard dev MODULE:APP",
)
looking.add_to(commands)
acting.add_to(commands)
conversing.add_to(commands)
rejects.add_to(commands)
entities.add_to(commands)


@commands.command()
def dev(
    app: AppTarget,
    *,
    host: Host = "127.0.0.1",
    port: Port = 7071,
    data: DataFolderOption = DEFAULT_FOLDER,
    hub: HubName = None,
    allow_remote: AllowRemote = False,
    otlp: Otlp = None,
    log_level: Level = "info",
) -> None:
    """Run everything in this process, on a file: worker and HTTP API. For trying and for developing.

    Nothing is reloaded behind your back, and the data survive a restart.
    """
    from callboard.cli.serving import run_dev  # noqa: PLC0415 - a web framework, which other commands do without
    from callboard.http.keys import HttpKeys  # noqa: PLC0415 - as above

    set_up_logs(log_level)
    loaded = load_app(app)
    folder = DataFolder(data)
    name = hub or loaded.hub
    listener = Listener(host, port, allow_remote=allow_remote, keys=HttpKeys.from_env())
    task_hub = TaskHub.from_urls(
        name, broker=folder.url, store=folder.url, partitions=loaded.partitions, keys=Keys.from_env()
    )
    folder.prepare(name)
    with watched(name, otlp):
        run(until_stopped(lambda stopping: run_dev(loaded, task_hub, listener, folder, stopping)))


@commands.command()
def worker(
    app: AppTarget,
    *,
    broker: BrokerUrl,
    store: StoreUrl,
    hub: HubName = None,
    processes: Processes = 1,
    only: Only = None,
    queue: Queues = None,
    concurrency: Concurrency = CONCURRENCY,
    partitions: Partitions = None,
    drain: Drain = DRAIN_DEADLINE,
    retain: Retain = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    otlp: Otlp = None,
    log_level: Level = "info",
) -> None:
    """Run orchestrations and activities. Start as many as you like, on as many machines: they share the work."""
    lifeline = Lifeline.from_environment()
    set_up_logs(log_level, process=processes > 1 or lifeline is not None)
    loaded = load_app(app)
    if queue and only == "orchestrations":
        raise CommandError("--queue is about activities, and --only orchestrations runs none: leave one of them out.")
    options = WorkerOptions(
        only=only,
        queues=tuple(queue) if queue else None,
        concurrency=concurrency,
        drain=drain,
        retention=retention_of(retain or ()),
    )
    task_hub = TaskHub.from_urls(
        hub or loaded.hub,
        broker=broker,
        store=store,
        partitions=partitions or loaded.partitions,
        keys=Keys.from_env(),
    )
    if lifeline is not None or processes == 1:
        with watched(task_hub.name, otlp):
            metrics = metrics_host, metrics_port
            run(
                until_stopped(
                    lambda stopping: run_worker(loaded, task_hub, options, stopping, lifeline, metrics=metrics)
                )
            )
        return
    run(check_servers(task_hub))  # what is wrong is said once, here, and not by each process
    supervisor = Supervisor(
        sys.argv[1:],
        count=processes,
        drain=drain,
        on_ready=lambda: say(f"{processes} workers are ready. Ctrl-C stops them."),
    )
    asyncio.run(until_stopped(supervisor.run))


@commands.command()
def serve(
    app: Annotated[
        str | None,
        typer.Argument(metavar="[MODULE:APP]", help="Your App: names are then checked at once.", show_default=False),
    ] = None,
    *,
    broker: BrokerUrl,
    store: StoreUrl,
    hub: HubName = None,
    host: Host = "127.0.0.1",
    port: Port = 7071,
    allow_remote: AllowRemote = False,
    otlp: Otlp = None,
    log_level: Level = "info",
) -> None:
    """Serve the HTTP API, and nothing else. Needs an App or the name of a hub."""
    from callboard.cli.serving import run_serve  # noqa: PLC0415 - as above
    from callboard.http.keys import HttpKeys  # noqa: PLC0415 - as above

    set_up_logs(log_level)
    loaded: App | None = load_app(app) if app else None
    name = hub or (loaded.hub if loaded else None)
    if name is None:
        raise CommandError("Which hub? Name an App (callboard serve MODULE:APP …) or a hub (--hub NAME).")
    listener = Listener(host, port, allow_remote=allow_remote, keys=HttpKeys.from_env())
    wanted = loaded.partitions if loaded else None
    task_hub = TaskHub.from_urls(name, broker=broker, store=store, partitions=wanted, keys=Keys.from_env())
    with watched(name, otlp):
        run(until_stopped(lambda stopping: run_serve(loaded, task_hub, listener, stopping)))
