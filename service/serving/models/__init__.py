"""Models that can be addressed, as they are loaded and unloaded."""
