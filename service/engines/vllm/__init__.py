"""vLLM as an engine: one supervised server a model."""
