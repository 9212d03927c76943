"""Models of other servers that speak the OpenAI API."""
