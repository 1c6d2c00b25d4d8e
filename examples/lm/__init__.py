"""Parts of the base model's training: data, batches, losses, optimisers."""
