"""What is told of a request and by whom it is read: context, log line, metrics."""
