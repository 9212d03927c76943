"""transformers' own modelling code on a slot cache: on GPUs, and where no program covers a model."""
