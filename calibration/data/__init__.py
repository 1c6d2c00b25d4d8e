"""Labelled examples: read from files, split among clients. Knows no model."""
