"""What measurements share: engines and loads, tasks made up, and how a result is kept."""
