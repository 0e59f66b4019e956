"""Command line: `python -m tests.bench [OPTIONS]`, with AMQP_URL and MONGODB_URL in the environment (`make bench` sees to it)."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from .bench import PARTS, Bench, say
from .processes import cast, fingerprint
from .report import Machine, Options, Report, show, write


def parts(text: str) -> tuple[str, ...]:
    """Return the parts that a comma-separated list names."""
    chosen = tuple(part.strip() for part in text.split(","))
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}? There are: {', '.join(PARTS)}.")
    return chosen


def parser() -> argparse.ArgumentParser:
    default = Options(only=PARTS)
    command = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure Callboard next to the floor.")
    add = command.add_argument
    add("--only", type=parts, default=PARTS, metavar="PART,…", help=f"of: {', '.join(PARTS)}")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--workers", type=int, default=default.workers, help="worker processes (default: %(default)s)")
    add("--rounds", type=int, default=default.rounds, help="of floor and hello in turns (default: %(default)s)")
    add("--count", type=int, default=default.count, help="orchestrations in a round (default: %(default)s)")
    add("--in-flight", type=int, default=default.in_flight, help="at a time, of hello (default: %(default)s)")
    add("--warmup", type=int, default=default.warmup, help="orchestrations before measuring (default: %(default)s)")
    add("--latency-count", type=int, default=default.latency_count, help="one at a time (default: %(default)s)")
    add("--fan-out", type=int, default=default.fan_out, help="activities at once (default: %(default)s)")
    add("--chain", type=int, default=default.chain, help="activities in sequence (default: %(default)s)")
    add(
        "--embedded-count",
        type=int,
        default=default.embedded_count,
        help="orchestrations on SQLite (default: %(default)s)",
    )
    add("--idle-seconds", type=float, default=default.idle_seconds, help="to watch idle workers (default: %(default)s)")
    add(
        "--settle-seconds",
        type=float,
        default=default.settle_seconds,
        help="of calm before that (default: %(default)s)",
    )
    add(
        "--aftermath-seconds",
        type=float,
        default=default.aftermath_seconds,
        help="after the last result, before CPU is read",
    )
    add("--timeout", type=float, default=default.timeout, help="seconds for one measurement (default: %(default)s)")
    add("--profile", type=Path, metavar="DIR", help="profile the workers into this directory")
    add("--profiler", choices=("py-spy", "cprofile"), help="default: py-spy if it is on PATH, else cprofile")
    return command


def options_of(chosen: argparse.Namespace) -> Options:
    values = {name: value for name, value in vars(chosen).items() if name in Options.__struct_fields__}
    spy = "py-spy" if shutil.which("py-spy") else "cprofile"
    values["profiler"] = (chosen.profiler or spy) if chosen.profile else None
    return Options(**values)


def interrupted(*_: object) -> None:
    """End as by Ctrl-C: with the processes that were started."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    chosen = parser().parse_args(arguments)
    if missing := [name for name in ("AMQP_URL", "MONGODB_URL") if not os.environ.get(name)]:
        say(f"{' and '.join(missing)} must name servers; `python -m tests.servers -- COMMAND` starts private ones.")
        return 2
    signal.signal(signal.SIGTERM, interrupted)
    report = Report(machine=Machine.here(), options=options_of(chosen), code=fingerprint())
    if chosen.profile:
        chosen.profile.mkdir(parents=True, exist_ok=True)
    try:
        with cast() as started:
            Bench(started, report, chosen.profile).run()
    except KeyboardInterrupt:
        say("interrupted; what was measured until now:")
        report.failures["bench"] = "interrupted"
    report.code_changed = fingerprint() != report.code
    show(report)
    if chosen.profile:
        say(f"profiles of the workers, by {report.options.profiler}, are in {chosen.profile}")
    if chosen.json:
        write(report, chosen.json)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
