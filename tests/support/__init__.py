"""What tests of several packages build on: tiny models, their oracle, live services."""
