"""The commands people type: options, checks and what is shown. Computes nothing."""
