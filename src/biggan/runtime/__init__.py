"""The floor: processes, files, clocks, random numbers, errors."""
