"""The model registry: catalogue, files and predicted sizes of models."""
