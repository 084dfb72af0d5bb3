"""System services for all other packages: processes, files, memory, logs, precision, random numbers, errors."""
