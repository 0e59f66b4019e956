"""The broker adapters, each against what only it can do; what all can do is in tests/contract."""
