"""What ends a load test before it has a result."""


class LoadTestError(Exception):
    """The plan, its prompts or the service at the address are not as needed; says what to do."""
