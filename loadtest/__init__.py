"""Open-loop load tests of a running service."""
