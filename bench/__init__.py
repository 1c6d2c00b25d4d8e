"""Measurements: each script prints a ratio against the alternative, taken in the same run."""
