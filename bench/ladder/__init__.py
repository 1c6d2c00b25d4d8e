"""The parts of bench/accuracy.py: what is measured, the rival, and the tables."""
