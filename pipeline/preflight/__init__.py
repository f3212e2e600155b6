"""Before a run: memory, time, requirements."""
