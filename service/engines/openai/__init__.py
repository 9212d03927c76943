"""Any server of the OpenAI API as an engine."""
