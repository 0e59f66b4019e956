"""One AMQP connection and what is done on it. The only importer of the AMQP driver.

Rules of this file:
- A request to the server, once sent, is never cancelled: the driver closes the channel of a cancelled request. Requests run as tasks of
  their own; who waits for them may go.
- Nothing is written to a channel after its Close: the server answers such a frame by closing the whole connection. So acks stop first.
- Acks and publishes never wait for the driver: they go to an outbox, which one task writes in order, many to one write.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import logging
import re
import ssl
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import aio_pika
import aiormq
import aiormq.abc
import aiormq.connection
from aiormq import exceptions as driver_errors

from callboard.errors import BrokerUnavailableError, ConfigurationError
from callboard_broker import rabbitmq_frames as frames
from callboard_broker.rabbitmq_options import RabbitMQOptions
from callboard_broker.topology import QueueSpec

log = logging.getLogger("callboard.broker")

T = TypeVar("T")
