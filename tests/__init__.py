"""Callboard's tests, benchmarks and the servers they run on."""
