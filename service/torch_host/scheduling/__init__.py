"""Which step comes next: prefill chunks and decode steps under a bound on inter-token latency."""
