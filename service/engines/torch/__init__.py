"""The torch engine: client and supervision of the process that computes all local models."""
