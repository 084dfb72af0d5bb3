"""Tables of runs over settings and seeds, and two-player toy games."""
