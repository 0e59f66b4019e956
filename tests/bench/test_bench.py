"""The benchmark runs, and writes what it says it writes; its figures are for people to judge."""

from __future__ import annotations

import json
import os
import pstats
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from . import measuring
from .measuring import Quantiles, Spread, Steps
from .processes import ROOT
from .profiling import profiled

TINY = [
    "--count=5",
    "--in-flight=3",
    "--warmup=1",
    "--latency-count=5",
    "--fan-out=5",
    "--chain=5",
    "--embedded-count=5",
]
HASTE = ["--rounds=1", "--idle-seconds=0.2", "--settle-seconds=0.1", "--aftermath-seconds=0.01", "--timeout=60"]


@pytest.fixture
def servers(amqp_url: str, mongodb_url: str) -> dict[str, str]:
    """An environment that names servers; our own process stands for MongoDB's, and nobody for RabbitMQ's."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_SERVER_PID")}
    return environment | {"AMQP_URL": amqp_url, "MONGODB_URL": mongodb_url, "MONGODB_SERVER_PID": str(os.getpid())}


def bench(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.bench", *arguments]


def test_everything_is_measured(servers: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = bench(*TINY, *HASTE, f"--json={file}", f"--profile={tmp_path}", "--profiler=cprofile")
    done = subprocess.run(command, cwd=ROOT, env=servers, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(file.read_bytes())
    assert found["failures"] == {}
    assert set(found["parts"]) == {"latency", "floor", "hello", "fan-out", "chain", "embedded"}
    for name, part in found["parts"].items():
        assert [one["count"] for one in part["rounds"]] == [5] * {"fan-out": 3, "chain": 3, "floor": 4}.get(name, 1)
        assert 0 < part["rate"]["min"] <= part["rate"]["median"] <= part["rate"]["max"]
        assert set(part["cpu_ms"]) == ({"embedded"} if name == "embedded" else {"client", "workers", "mongod"})
        assert bool(part["latency_ms"]) == (name in {"latency", "hello", "embedded"})
    assert set(found["parts"]["chain"]["rounds"][0]["steps"]) == set(Steps.__struct_fields__)
    assert found["ratio_percent"]["median"] > 0
    assert found["cpu_ratio"]["median"] >= 0
    assert set(found["idle_percent"]) == {"workers", "mongod"}
    assert "% of the floor" in done.stdout
    assert (tmp_path / "worker-0.pstats").exists()


def test_nothing_outlives_it(servers: dict[str, str]) -> None:
    running = subprocess.Popen(
        bench("--only=idle", "--idle-seconds=60", "--settle-seconds=0"), cwd=ROOT, env=servers, stderr=subprocess.PIPE
    )
    with running:
        assert running.stderr is not None
        while b"idle, for" not in running.stderr.readline():
            assert running.poll() is None
        started = descendants(running.pid)
        assert started
        running.send_signal(signal.SIGKILL)
        running.stderr.read()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_servers_must_be_named() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    done = subprocess.run(bench(), cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "AMQP_URL and MONGODB_URL must name servers" in done.stderr


def test_statistics() -> None:
    assert Quantiles.of([number / 1000 for number in range(100)]) == Quantiles(50, 95, 99)
    assert Quantiles.of([0.002]) == Quantiles(2, 2, 2)
    assert Spread.of([3, 1, 2]) == Spread(2, 1, 3)


def test_both_ends_of_a_sequence_are_compared() -> None:
    stamps = [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3), (5, 0.8), (7, 1.3), (9, 1.8)]
    steps = Steps.of(stamps, ends=3, workers=1)
    assert (steps.first_ms, steps.last_ms, steps.ratio) == (1000, 2000, 2)
    assert steps.tenths_ms == (1000, 1000, 1000, 2000, 2000, 2000)
    assert steps.cpu_ratio == pytest.approx(5)
    assert Steps.of(stamps, ends=3, workers=2).cpu_ratio is None


def test_a_profile_charges_no_thread_with_the_time_of_another(tmp_path: Path) -> None:
    parked: queue.SimpleQueue[None] = queue.SimpleQueue()
    waiting = threading.Thread(target=parked.get, daemon=True)
    working = threading.Thread(target=burn, args=[0.2])
    try:
        with profiled(tmp_path / "stats"):
            waiting.start()
            working.start()
            burn(0.3)
            working.join()
    finally:
        parked.put(None)
    stats: Any = pstats.Stats(str(tmp_path / "stats"))
    assert 0.4 < stats.total_tt < 0.7
    assert not any(name == "get" for _, _, name in stats.stats)


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_cpu_is_that_of_the_whole_tree() -> None:
    before = measuring.cpu_seconds({"mine": [os.getpid()], "nobody's": [2**22 + 1], "none": []})
    assert set(before) == {"mine"}
    burn = "import time, subprocess, sys\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    shell = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert measuring.cpu_seconds({"child": [child.pid]})["child"] >= 0.3
        assert measuring.cpu_seconds({"mine": [os.getpid()]})["mine"] >= before["mine"] + 0.3
        assert measuring.busy_seconds() > 0


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [found for child in map(int, children) for found in (child, *descendants(child))]
