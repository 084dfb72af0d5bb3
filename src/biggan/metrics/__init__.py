"""How good images are: features of them, scores over features, and recipes that say how a score was made."""
