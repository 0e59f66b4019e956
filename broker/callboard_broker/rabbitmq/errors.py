"""What the driver's errors mean, and what to tell the person."""

from __future__ import annotations

import logging
import re
import ssl

from aiormq import exceptions as driver

from callboard.errors import BrokerUnavailableError, ConfigurationError
from callboard_broker.rabbitmq.options import RabbitMQOptions
from callboard_broker.topology import QueueSpec

log = logging.getLogger("callboard.broker")


class ConnectionLostError(Exception):
    """The connection or channel ended before the server answered."""


class QueueMissingError(Exception):
    """There is no queue of that name."""


class QueueLockedError(Exception):
    """Another connection has that exclusive queue."""


class UnansweredError(Exception):
    """The server lives, but does not answer this request: a quorum queue has no leader."""


class DifferentError(Exception):
    """A queue of that name is there with other properties."""


class RefusedError(BrokerUnavailableError):
    """The server answered, and does not want us: trying again at once would not help."""


#: What a request can end with, but for ConfigurationError.
WIRE_ERRORS = (
    ConnectionLostError,
    QueueMissingError,
    QueueLockedError,
    UnansweredError,
    DifferentError,
    BrokerUnavailableError,
)


def translated(error: BaseException) -> Exception:
    match error:
        case driver.ChannelPreconditionFailed():
            return DifferentError(words(error))
        case driver.ChannelNotFoundEntity():
            return QueueMissingError(str(error))
        case driver.ChannelLockedResource():
            return QueueLockedError(str(error))
        case driver.ChannelAccessRefused():
            return RefusedError(
                f"RabbitMQ refused: {error}. Give the user the permissions to configure, write and read the hub's queues "
                f"and the default exchange: rabbitmqctl set_permissions."
            )
        case _:
            return ConnectionLostError(words(error))


def words(error: BaseException | None) -> str:
    """What the driver says, without its class names."""
    return str(error).strip() if error is not None and str(error).strip() else "the connection was closed"


def judge_difference(spec: QueueSpec, text: str, *, accept: bool) -> None:
    if accept:
        log.warning("Queue %s is used as it is, though it should have other properties: %s", spec.name, text)
        return
    limit = spec.arguments.get("x-delivery-limit")
    upgrade = (
        f" If an older RabbitMQ made it: have it keep messages by policy (rabbitmqctl set_policy --apply-to queues NAME "
        f"'^{re.escape(spec.name)}$' '{{\"delivery-limit\": {limit}}}'), then set the option accept_existing_queues=true."
        if limit is not None and "x-delivery-limit" in text
        else ""
    )
    raise ConfigurationError(
        f"Queue {spec.name!r} exists with other properties than this hub needs: {text}. Delete it once it is empty "
        f"(rabbitmqctl delete_queue {spec.name}), or use another hub name.{upgrade}"
    )


def cannot_connect(error: BaseException, options: RabbitMQOptions) -> BrokerUnavailableError:
    where = f"RabbitMQ at {options.address}"
    if isinstance(error, driver.ProbableAuthenticationError | driver.AuthenticationError):
        return RefusedError(
            f"{where} refused the credentials of user {options.user!r}. Check user and password in the broker URL; 'guest' may "
            f"log in from the server's own machine only."
        )
    if isinstance(error, driver.InvalidFrameError) and "Connection.Close" in str(error):
        return RefusedError(
            f"{where} does not let user {options.user!r} use virtual host {options.virtual_host!r}: it does not exist, or the "
            f"user has no permissions there. Check with rabbitmqctl list_vhosts and rabbitmqctl list_permissions."
        )
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RefusedError(
            f"{where} has a certificate that is not trusted: {cause.verify_message}. Name the authority's certificate with "
            f"tls_ca_file, and connect by the name that is in the server's certificate."
        )
    return unreachable(options, "" if isinstance(error, TimeoutError) else str(cause))


def unreachable(options: RabbitMQOptions, reason: str) -> BrokerUnavailableError:
    """There is no answer, or none that makes sense."""
    reason = reason or f"no answer in {options.connect_timeout:g} seconds"
    return BrokerUnavailableError(
        f"Cannot reach RabbitMQ at {options.address}: {reason}. Check that the server runs there (and speaks {'TLS' if options.tls else 'plain AMQP'} on "
        f"that port), and that no firewall is in between."
    )
