"""Observation of the service itself: metrics, memory, logs."""
