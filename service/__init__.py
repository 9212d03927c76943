"""The Triptych service."""
