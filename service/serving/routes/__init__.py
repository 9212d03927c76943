"""Named routes: one file a policy, and what they decide by."""
