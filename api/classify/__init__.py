"""Classification without HTTP: a task and texts in, label probabilities out."""
