"""Energy of requests: counters of the machine, read while requests run, and shared among them."""
