"""The reference trio: a transformer, an SSM and a hybrid, trained alike."""
