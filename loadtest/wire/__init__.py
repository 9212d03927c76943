"""The measuring process: sends requests when they are due and stamps what it receives."""
