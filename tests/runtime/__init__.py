"""The runtime on a broker in memory and a store in SQLite: what it does right, and what it survives."""
