"""Agreement (SimplexH) as a pure machine: events in, effects out. It never learns what a block means."""
