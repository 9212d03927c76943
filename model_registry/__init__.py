"""Which models exist and how big they are."""
