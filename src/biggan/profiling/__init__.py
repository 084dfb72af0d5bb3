"""Speed, FLOP and memory."""
