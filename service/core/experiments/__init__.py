"""Experiments as values: the plan, the trials that it becomes, and the report on them."""
