"""The protocol between the service and the torch host."""
