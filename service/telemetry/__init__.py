"""What is observed about the service itself."""
