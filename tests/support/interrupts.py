"""Commands as a shell starts its background jobs: with SIGINT ignored."""

from collections.abc import Sequence


def in_background(command: Sequence[str]) -> list[str]:
    """The command with SIGINT ignored when it starts, which children inherit."""
    return ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
