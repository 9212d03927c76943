"""Statistics of measurements as pure functions on numpy and scipy; imported where they are used."""
