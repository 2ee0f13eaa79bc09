"""Weights that a load computes, kept in files, so that the next load of the same model maps them."""
