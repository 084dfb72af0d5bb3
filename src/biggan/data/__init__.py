"""Data sets: listing, preparing, decoding and streaming labeled images."""
