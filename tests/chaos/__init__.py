"""Faults on purpose: workers, brokers and databases are killed and frozen, and what is left is judged from outside."""
