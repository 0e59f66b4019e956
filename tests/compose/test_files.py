"""Compose, Dockerfile, Kubernetes, Prometheus and Grafana: their schemas, and what they say about us against the real thing."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer.main
import yaml

from callboard.cli.commands import commands
from callboard.cli.loading import load_app
from callboard.cli.secrets import VARIABLES
from callboard.ports import Destination
from callboard.prometheus import prometheus_name
from callboard_broker.topology import queue_name
from tests.cli.processes import call
from tests.telemetry.test_metrics import all_instruments

ROOT = Path(__file__).parents[2]
FILES = ROOT / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FILES / "compose.yaml").read_text(encoding="utf-8"))
KUBERNETES: list[dict[str, Any]] = [
    document
    for name in ("callboard.yaml", "scaling.yaml")
    for document in yaml.safe_load_all((FILES / "kubernetes" / name).read_text(encoding="utf-8"))
]
DOCKERFILE = (FILES / "Dockerfile").read_text(encoding="utf-8")
#: Variables that others define, and we heed.
STANDARD = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"}


def services() -> dict[str, Any]:
    found: dict[str, Any] = COMPOSE["services"]
    return found


def ours() -> dict[str, Any]:
    return {name: each for name, each in services().items() if each["image"] == "callboard:latest"}


def containers() -> list[dict[str, Any]]:
    return [
        container
        for each in KUBERNETES
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    ]


def commands_of_ours() -> list[list[str]]:
    return [each["command"] for each in ours().values()] + [each["args"] for each in containers()]


def validate(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_keeps_to_its_schema() -> None:
    validate("check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILES / "compose.yaml"))


def test_the_kubernetes_files_keep_to_their_schemas() -> None:
    path = Path(sys.executable).parent
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import kubernetes_validate.__main__ as m, sys; sys.exit(m.main())",
            "--strict",
            "callboard.yaml",
        ],
        cwd=FILES / "kubernetes",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{path}: {done.stdout + done.stderr}"


@pytest.mark.parametrize("command", commands_of_ours(), ids=" ".join)
def test_every_command_is_one_that_the_command_line_knows(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "sqlite:///x")
    monkeypatch.chdir(ROOT)
    group: Any = typer.main.get_command(commands)
    name, *arguments = command
    context = group.commands[name].make_context(name, list(arguments))
    assert load_app(context.params["app"]).hub == "hello"


def test_every_variable_is_one_that_is_read() -> None:
    group: Any = typer.main.get_command(commands)
    known = {parameter.envvar for each in group.commands.values() for parameter in each.params if parameter.envvar}
    known |= {f"{name}_FILE" for name in VARIABLES} | {"CALLBOARD_HTTP_KEYS_FILE"} | STANDARD
    said = {name for each in ours().values() for name in each["environment"]}
    said |= {variable["name"] for each in containers() for variable in each["env"]}
    assert said <= known


def test_secrets_are_files_that_exist_and_urls_reach_the_services() -> None:
    for secret in COMPOSE["secrets"].values():
        assert (FILES / secret["file"]).is_file()
    for name in ("broker_url", "store_url"):
        url = urlsplit((FILES / "secrets" / name).read_text(encoding="utf-8"))
        assert url.hostname in services()
        assert url.username == "callboard"
        assert url.password == (FILES / "secrets" / "mongodb_password").read_text(encoding="utf-8")
    assert f"default_pass = {url.password}" in (FILES / "secrets" / "rabbitmq.conf").read_text(encoding="utf-8")
    key = (FILES / "secrets" / "mongodb_key").read_text(encoding="utf-8")
    assert re.fullmatch(r"[A-Za-z0-9+/=]{6,1024}", key)


def test_nothing_listens_beyond_this_machine_and_all_that_is_mounted_is_there() -> None:
    for name, each in services().items():
        for port in each.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} opens {port}"
        for volume in each.get("volumes", ()):
            source = volume.split(":")[0]
            assert (FILES / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
        waits_for: dict[str, Any] = each.get("depends_on") or {}
        for other, condition in waits_for.items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services()[other]


def test_prometheus_scrapes_what_listens() -> None:
    config = yaml.safe_load((FILES / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = [
        target for job in config["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    ]
    for target in targets:
        host, _, port = target.partition(":")
        assert host in services()
        assert port in {"15692", *map(str, services()[host].get("command", ()))}, target
    assert {target.partition(":")[0] for target in targets} >= set(ours())


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((FILES / "grafana" / "dashboards" / "callboard.json").read_text(encoding="utf-8"))
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"callboard_\w+", target["expr"])
    }
    there: set[str] = set()
    for instrument in all_instruments():
        name = prometheus_name(instrument)
        there |= (
            {f"{name}{part}" for part in ("_bucket", "_sum", "_count")} if instrument.kind == "histogram" else {name}
        )
    assert asked <= there
    unseen = {prometheus_name(each) for each in all_instruments()} - {
        re.sub("_(bucket|sum|count)$", "", each) for each in asked
    }
    assert not unseen, "on no panel"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_workers_scale_by_a_queue_that_exists() -> None:
    (scaled,) = (each for each in KUBERNETES if each["kind"] == "ScaledObject")
    deployments = {each["metadata"]["name"]: each for each in KUBERNETES if each["kind"] == "Deployment"}
    target = deployments[scaled["spec"]["scaleTargetRef"]["name"]]
    assert "replicas" not in target["spec"]
    (trigger,) = scaled["spec"]["triggers"]
    app = load_app("examples.hello_sequence:app")
    assert trigger["metadata"]["queueName"] == queue_name(app.hub, Destination.activities("default"))
    assert trigger["metadata"]["mode"] == "QueueLength"
    (authentication,) = (each for each in KUBERNETES if each["kind"] == "TriggerAuthentication")
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]


def test_the_image_copies_what_there_is_runs_as_nobody_and_starts_our_command() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in shlex.split(line)[:-1]:
            assert (ROOT / source).exists(), source
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001"]
    assert 'ENTRYPOINT ["callboard"]' in DOCKERFILE


# Secrets by file


def test_urls_come_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text(f"sqlite:///{tmp_path / 'hub.db'}\n", encoding="utf-8")
    files = {"CALLBOARD_BROKER_FILE": str(secret), "CALLBOARD_STORE_FILE": str(secret), "CALLBOARD_HUB": "hello"}
    done = call(tmp_path, "list", **files)
    assert "no task hub 'hello' in this store" in done.stderr  # it asked the one that the file names
    assert (tmp_path / "hub.db").exists()
    both = call(tmp_path, "list", **files, CALLBOARD_BROKER="sqlite:///x")
    assert both.returncode == 2
    assert "both set" in both.stderr
    missing = call(tmp_path, "list", CALLBOARD_STORE_FILE=str(tmp_path / "none"))
    assert missing.returncode == 2
    assert "cannot be read: No such file" in missing.stderr
