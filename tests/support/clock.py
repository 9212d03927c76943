"""A manual clock, set by the test."""


class Clock:
    """Callable clock; returns *now*, in the unit that the test chose."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
