"""The OpenAI API: chat and text completions."""
