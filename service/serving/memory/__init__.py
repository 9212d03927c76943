"""The memory budget: reservations and evictions."""
