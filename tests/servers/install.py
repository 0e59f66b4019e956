"""Get the servers onto this machine: from what is there, from Docker, from the distribution; say what is going on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from . import mongodb, rabbitmq
from .process import ServerError, say
from .server import docker_works

#: The shared libraries that mongod's wheel links to and a minimal system may lack, with Debian's names for their packages.
LIBRARIES = {
    "libcurl.so.4": "libcurl4",
    "libcrypto.so.3": "libssl3",
    "libssl.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
}

#: Installs packages without starting the services they bring: we run private ones.
APT_INSTALL = r"""
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "$@"
"""


def pull(image: str) -> None:
    """Fetch an image, showing Docker's own progress."""
    say(f"fetching the Docker image {image}")
    if subprocess.run(["docker", "pull", image], check=False, stdin=subprocess.DEVNULL).returncode:
        raise ServerError(f"Docker could not fetch {image}; its message is above.")


def become_root() -> list[str] | None:
    """Return what to put before a command that needs root, or None when we cannot become root unasked."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], check=False, capture_output=True).returncode == 0:
        return sudo
    return None


def apt_install(packages: list[str], otherwise: str) -> None:
    """Install packages of the distribution.

    Raises:
        ServerError: if that cannot be done here; its message says what to do, `otherwise` being one of the ways.
    """
    names = " ".join(packages)
    prefix = become_root()
    if shutil.which("apt-get") is None or prefix is None:
        raise ServerError(
            f"{names} must be installed, and that needs root: `sudo apt-get install {names}`.\n{otherwise}"
        )
    say(f"installing {names} with apt-get (this can take a minute)")
    command = [*prefix, "sh", "-c", APT_INSTALL, "sh", *packages]
    if subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode:
        raise ServerError(f"apt-get could not install {names}; its message is above.\n{otherwise}")


def install_rabbitmq() -> None:
    """Make RabbitMQServer able to start."""
    if os.environ.get("AMQP_URL"):
        say("RabbitMQ: using AMQP_URL")
    elif rabbitmq.find("rabbitmq-server"):
        say("RabbitMQ: installed")
    elif docker_works():
        pull(rabbitmq.IMAGE)
    else:
        apt_install(["rabbitmq-server"], "Or start a Docker engine, or set AMQP_URL to a broker you have.")


def missing_libraries(complaint: str) -> list[str]:
    """Return the packages that would cure a loader's complaint."""
    named = re.findall(r"(\S+\.so\.\d+): cannot open shared object", complaint)
    return sorted({LIBRARIES[library] for library in named if library in LIBRARIES})


def install_mongodb() -> None:
    """Make MongoDBServer able to start."""
    if os.environ.get("MONGODB_URL"):
        say("MongoDB: using MONGODB_URL")
        return
    otherwise = "Or start a Docker engine, install a mongod, or set MONGODB_URL to a server you have."
    mongod = mongodb.find()
    trouble = mongodb.complaint(mongod) if mongod else "no mongod for this platform"
    while mongod and (packages := missing_libraries(trouble)) and not docker_works():
        apt_install(packages, otherwise)
        before, trouble = trouble, mongodb.complaint(mongod)
        if trouble == before:
            break
    if not trouble:
        say("MongoDB: installed")
    elif docker_works():
        pull(mongodb.IMAGE)
    else:
        raise ServerError(f"MongoDB cannot run here: {trouble.strip()}\n{otherwise}")


def install() -> None:
    """Make both servers able to start."""
    install_rabbitmq()
    install_mongodb()
