"""Image quality metrics: feature extractors, scores over features, and the recipes that document how scores were made."""
