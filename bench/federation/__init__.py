"""What the measurements of federated calibration share."""
