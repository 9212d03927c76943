"""OpenAI API: chats and completions."""
