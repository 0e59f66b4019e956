"""What can be watched from outside: traces, metrics, logs."""
