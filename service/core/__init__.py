"""Values, errors, formulas and Protocols."""
