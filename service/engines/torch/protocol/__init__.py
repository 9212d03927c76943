"""What the service and the torch host say to each other."""
