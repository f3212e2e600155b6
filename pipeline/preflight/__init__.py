"""Before a run: what it will hold, cost and need."""
