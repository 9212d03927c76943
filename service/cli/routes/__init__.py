"""`triptych routes`."""
