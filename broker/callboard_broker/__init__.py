"""Brokers for Callboard: one module for each technology."""
