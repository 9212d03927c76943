"""transformers' own modelling code on a slot cache: on GPUs, and for models without a program."""
