"""Routes: model ids that stand for several models, and what their policies decide by."""
