"""Callboard's brokers: RabbitMQ, and one in memory for tests."""
