"""One file per pass; each starts with the algebra it applies."""
