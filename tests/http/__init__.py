"""The HTTP API."""  # noqa: A005 - it is tests.http
