"""A private RabbitMQ node."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from pathlib import Path

from .process import ServerError, free_port
from .server import Launch, Server, container, docker_works

IMAGE = "rabbitmq:4"

#: Debian's /usr/sbin/rabbitmq-server wants root or the user rabbitmq; the script behind it runs as anyone.
SCRIPTS = Path("/usr/lib/rabbitmq/bin")
SYSTEM_PATH = ":/usr/local/sbin:/usr/sbin:/sbin:/opt/homebrew/sbin:/usr/lib/erlang/bin"

AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"


def find(program: str) -> str | None:
    """Return the path of one of RabbitMQ's or Erlang's programs, or None."""
    script = SCRIPTS / program
    return str(script) if script.exists() else shutil.which(program, path=os.environ.get("PATH", "") + SYSTEM_PATH)


class RabbitMQServer(Server):
    """A RabbitMQ node of our own: its own name, ports, cookie, data and port mapper; it listens on loopback only.

    With RabbitMQ installed the node is a process of ours, otherwise a container. Log in as guest.
    """

    title = "RabbitMQ"

    def __init__(self) -> None:
        """Choose ports and a directory; nothing runs yet."""
        super().__init__()
        self._name = f"callboard-{uuid.uuid4().hex[:12]}"
        self._node = f"{self._name}@localhost"
        self._dist_port = free_port()
        self._epmd_port = free_port()
        self._image_started = False

    @property
    def url(self) -> str:
        """AMQP URL of the default virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl against the node and return what it prints.

        Raises:
            ServerError: if it fails, with its own words.
        """
        if find("rabbitmq-server"):
            command, environment = [find("rabbitmqctl") or "rabbitmqctl", "--node", self._node], self._environment()
        else:
            command, environment = ["docker", "exec", self._name, "rabbitmqctl"], None
        done = subprocess.run(
            [*command, "--quiet", *arguments], env=environment, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise ServerError(f"rabbitmqctl {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def _launch(self) -> Launch:
        server, epmd = find("rabbitmq-server"), find("epmd")
        if server and epmd:
            self._write_configuration()
            return Launch(
                command=[server],
                environment=self._environment(),
                companions=[[epmd, "-address", "127.0.0.1", "-port", str(self._epmd_port)]],
            )
        if not docker_works():
            raise ServerError(
                "RabbitMQ is not installed. Run `make servers`, install the package rabbitmq-server, start a Docker "
                "engine, or set AMQP_URL to a broker you have."
            )
        exists, self._image_started = self._image_started, True
        return container(IMAGE, self._name, ["--publish", f"127.0.0.1:{self.port}:5672"], [], exists=exists)

    def _write_configuration(self) -> None:
        (self.directory / "conf.d").mkdir(exist_ok=True)
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\ndisk_free_limit.absolute = 50MB\n", encoding="ascii"
        )
        (self.directory / "advanced.config").write_text("[].\n", encoding="ascii")
        (self.directory / "enabled_plugins").write_text("[].\n", encoding="ascii")
        (self.directory / "rabbitmq-env.conf").touch()

    def _environment(self) -> dict[str, str]:
        """Return ours without anything that would lead the node to a system-wide RabbitMQ, and its own settings."""
        foreign = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
        here = self.directory
        return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin") + SYSTEM_PATH,
            "LC_ALL": "C.UTF-8",
            "HOME": str(here),  # the Erlang cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RUNNING_UNDER_SYSTEMD": "true",  # makes the script exec the server, so that its pid is the one we know
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONF_ENV_FILE": str(here / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(here / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(here / "generated"),
        }

    def _is_ready(self) -> bool:
        """Say hello in AMQP: the node opens its listener last, and answers with connection.start."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(AMQP_HEADER)
                greeting = connection.recv(4096)  # it names the cluster, which is named after the node
        except OSError:
            return False
        return greeting[:1] == METHOD_FRAME and (self.in_container or self._name.encode() in greeting)
