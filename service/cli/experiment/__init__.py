"""`triptych experiment`."""
