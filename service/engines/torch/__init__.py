"""The torch engine, which lives in its own host process."""
