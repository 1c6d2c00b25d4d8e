"""The folder of artifacts: found by digest, served by name, changed while it serves."""
