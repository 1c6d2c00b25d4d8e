"""Who may ask for what: API keys, their tasks, and the admin key."""
