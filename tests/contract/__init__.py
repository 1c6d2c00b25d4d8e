"""The task contract: what calibration writes and serving reads. No engine, no HTTP."""
