"""The torch host: the child process that computes all local models."""
