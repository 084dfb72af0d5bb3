"""Data sets: listing, decoding, streaming, preparing."""
