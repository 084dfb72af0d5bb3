"""What a trained generator can do and has learned: its scores, its truncation curve, its latent space, its copies."""
