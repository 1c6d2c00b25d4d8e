"""How a run is kept, told and warned of, and the one whose clients are all in this process."""
