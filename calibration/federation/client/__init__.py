"""A data owner's side: its rows, its answers, and the processes that give them."""
