"""Features, end to end: real workers and clients, on the embedded default and on RabbitMQ with MongoDB."""
