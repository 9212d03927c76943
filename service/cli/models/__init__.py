"""triptych models: list, show, pull, check, memory."""
