"""What a task is: its artifact, prompt, labels, injection, base model and signature."""
