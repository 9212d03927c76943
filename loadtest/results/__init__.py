"""Numbers of a run, held against the service's records."""
