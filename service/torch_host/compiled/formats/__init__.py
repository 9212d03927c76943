"""Storage formats of matrices: one module a family, and the registry of all."""
