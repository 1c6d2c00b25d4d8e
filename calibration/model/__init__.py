"""A Hugging Face decoder that can be read and adapted, and what is computed on it."""
