"""The memory budget: what is reserved, by whom, and who is evicted."""
