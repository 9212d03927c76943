"""vLLM as an engine: one supervised server per model."""
