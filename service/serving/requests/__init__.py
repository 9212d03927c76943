"""The path of a request: route, model, engine, record."""
