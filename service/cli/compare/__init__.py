"""triptych compare: one prompt, several models, side by side."""
