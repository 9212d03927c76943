"""From files to a network in memory: checkpoints, adapters, packed weights."""
