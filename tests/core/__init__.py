"""The pure core: no sockets, no clocks, no sleeps."""
