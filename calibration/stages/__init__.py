"""What clients and server do: extract, aggregate, fit, evaluate. Pure but for the model."""
