"""Durable orchestrations in plain Python, on RabbitMQ and MongoDB."""
