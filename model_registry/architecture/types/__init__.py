"""Readers by model type: each file has its counterpart in the torch host's architectures."""
