"""Errors that end a load test before it has a result."""


class LoadTestError(Exception):
    """The plan, its prompts or the service cannot be used; the message says what to do."""
