"""Opening a RabbitMQ broker, and everything that can be wrong with an address."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from typing import TYPE_CHECKING

import aio_pika
import pytest
from yarl import URL

from callboard.errors import BrokerUnavailableError, ConfigurationError
from callboard.testing.broker_contract import Received
from callboard_broker.rabbitmq import RabbitMQBroker, RabbitMQOptions
from tests.broker.rabbitmq_support import P0, P1, WORK, Proxy, inside, no_noise, opened
from tests.servers.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["no_noise"]


def test_urls_say_everything() -> None:
    options = RabbitMQOptions.from_url(
        "amqps://me%40home:p%2Fw@mq.example:5999/my%2Fhost?heartbeat=7&publish_timeout=2.5&tls_verify=no",
        message_limit=9,
    )
    assert (options.user, options.password, options.host, options.port) == ("me@home", "p/w", "mq.example", 5999)
    assert (options.virtual_host, options.tls, options.tls_verify) == ("my/host", True, False)
    assert (options.heartbeat, options.publish_timeout, options.message_limit) == (7, 2.5, 9)


@pytest.mark.parametrize(
    ("url", "port", "tls"), [("amqp://h", 5672, False), ("amqps://h", 5671, True), ("amqp://h/", 5672, False)]
)
def test_urls_may_say_little(url: str, port: int, tls: bool) -> None:
    options = RabbitMQOptions.from_url(url)
    assert (options.host, options.port, options.tls, options.virtual_host) == ("h", port, tls, "/")
    assert (options.user, options.tls_verify) == ("guest", True)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://h", "must begin with amqp"),
        ("amqp://h:port", "cannot be read"),
        ("amqp://h?heartbeat=often", "heartbeat='often' is not a valid int"),
        ("amqp://h?tls_verify=perhaps", "tls_verify='perhaps' is not a valid bool"),
        ("amqp://h?hartbeat=5", "Unknown broker option hartbeat.*heartbeat"),
    ],
)
def test_urls_that_cannot_be_understood(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RabbitMQOptions.from_url(url)


def test_options_do_not_show_the_password() -> None:
    options = RabbitMQOptions.from_url("amqp://me:s3cret@h")
    assert "s3cret" not in f"{options!r} {RabbitMQBroker(options)!r} {options.address}"


async def test_an_address_where_nobody_listens(hub: str) -> None:
    port = free_port()
    began = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match=rf"Cannot reach RabbitMQ at 127\.0\.0\.1:{port}: .*Check that"):
        await RabbitMQBroker.from_url(f"amqp://127.0.0.1:{port}", connect_timeout=1).open(hub, 2)
    assert time.monotonic() - began < 2


async def test_an_address_that_does_not_answer(hub: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="no answer in 1 seconds"):
            await RabbitMQBroker.from_url(f"amqp://127.0.0.1:{port}", connect_timeout=1).open(hub, 2)
        assert time.monotonic() - began < 5


async def test_credentials_that_are_refused(amqp_url: str, hub: str) -> None:
    broker = RabbitMQBroker.from_url(str(URL(amqp_url).with_user("somebody").with_password("s3cret")))
    began = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match="refused the credentials of user 'somebody'") as refusal:
        await broker.open(hub, 2)
    assert time.monotonic() - began < 5
    assert "s3cret" not in f"{refusal.value} {broker!r} {inside(broker)._options!r}"


async def test_a_virtual_host_that_is_not_there(amqp_url: str, hub: str) -> None:
    with pytest.raises(BrokerUnavailableError, match="virtual host 'nowhere'"):
        await RabbitMQBroker.from_url(str(URL(amqp_url).with_path("/nowhere"))).open(hub, 2)


async def test_a_queue_with_other_properties(amqp_url: str, hub: str) -> None:
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        await (await connection.channel()).declare_queue(f"{hub}.p.1", durable=True)
        with pytest.raises(ConfigurationError, match=rf"{hub}\.p\.1' exists with other properties.*x-queue-type"):
            await RabbitMQBroker.from_url(amqp_url).open(hub, 2)
        async with opened(amqp_url, hub, accept_existing_queues=True) as broker:
            await broker.publish(P1, b"")


async def test_an_activity_queue_with_other_properties(amqp_url: str, hub: str) -> None:
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        await (await connection.channel()).declare_queue(f"{hub}.activities.work", durable=True)
    async with opened(amqp_url, hub) as broker:
        with pytest.raises(ConfigurationError, match="exists with other properties"):
            await broker.publish(WORK, b"")
        with pytest.raises(ConfigurationError, match="exists with other properties"):
            await broker.consume(WORK, Received())
        await broker.publish(P0, b"the others go on")


async def test_opening_a_large_hub_is_fast(amqp_url: str, hub: str) -> None:
    for limit in (20, 3):
        broker = RabbitMQBroker.from_url(amqp_url)
        began = time.monotonic()
        await broker.open(hub, 64)
        took = time.monotonic() - began
        await broker.aclose()
        assert took < limit


async def test_a_broker_that_is_not_open(amqp_url: str, hub: str) -> None:
    broker = RabbitMQBroker.from_url(amqp_url)
    with pytest.raises(BrokerUnavailableError, match="not open"):
        await broker.publish(P0, b"")
    async with opened(amqp_url, hub) as broker:
        with pytest.raises(ConfigurationError, match="open already"):
            await broker.open(hub, 2)
        publishing = asyncio.create_task(broker.publish(P0, bytes(1_000_000)))
        await broker.aclose()
        await asyncio.wait([publishing])
        assert publishing.exception() is None or isinstance(publishing.exception(), BrokerUnavailableError)
        for call in (broker.publish(P0, b""), broker.consume(P0, Received())):
            with pytest.raises(BrokerUnavailableError, match="not open"):
                await call
        await broker.open(hub, 2)
        await broker.publish(P0, b"again")


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed but itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.fail("openssl is not installed: it makes the certificate of this test (apt-get install openssl)")
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=callboard-test", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


async def test_tls(amqp_url: str, hub: str, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    async with Proxy(URL(amqp_url).port or 5672, context) as proxy:
        url = str(URL(amqp_url).with_scheme("amqps").with_host("127.0.0.1").with_port(proxy.port))
        with pytest.raises(BrokerUnavailableError, match=r"certificate that is not trusted.*tls_ca_file"):
            await RabbitMQBroker.from_url(url).open(hub, 2)
        with pytest.raises(ConfigurationError, match="TLS files cannot be used"):
            await RabbitMQBroker.from_url(url, tls_ca_file="/nowhere.pem").open(hub, 2)
        for options in ({"tls_ca_file": str(cert)}, {"tls_verify": False}):
            async with opened(url, hub, **options) as broker:
                received = Received(ack=True)
                await broker.consume(P0, received)
                await broker.publish(P0, bytes(500_000))
                await received.wait_for(1)
                broker.drop_connections()
                await broker.publish(P0, b"again")
                await received.wait_for_bodies({b"again"})


async def test_plain_amqp_where_tls_is_asked_for(amqp_url: str, hub: str) -> None:
    url = str(URL(amqp_url).with_scheme("amqps"))
    with pytest.raises(BrokerUnavailableError, match="speaks TLS on that port"):
        await RabbitMQBroker.from_url(url, connect_timeout=1).open(hub, 2)
