"""HTTP over a real socket, against an engine whose scores can be worked out by hand."""
