"""Private RabbitMQ and MongoDB servers for tests, benchmarks and whoever wants to try the real thing.

`python -m tests.servers install` gets what is missing on this machine; `python -m tests.servers -- COMMAND …` runs a command
with AMQP_URL and MONGODB_URL set, and AMQP_SERVER_PID and MONGODB_SERVER_PID for measuring (not when the environment already
names the servers). Fault tests start, kill and restart servers of their own through the classes.
"""

from .mongodb import MongoDBServer
from .process import ServerError
from .rabbitmq import RabbitMQServer
from .server import Server

__all__ = ["MongoDBServer", "RabbitMQServer", "Server", "ServerError"]
