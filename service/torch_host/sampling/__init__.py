"""From logits to tokens: penalties, filters, random draws and log-probabilities."""
