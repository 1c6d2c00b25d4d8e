"""What comes of a calibration: the record in the artifact, warnings, a report, a checkpoint."""
