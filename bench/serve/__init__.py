"""What the measurements of serving share."""
