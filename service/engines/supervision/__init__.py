"""Supervision of child processes: starts, restarts, watchdog, logs, sockets."""
