"""Tests of `calibration`: tiny random models, no network, no GPU."""
