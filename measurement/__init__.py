"""What evaluation and speed share: models as they run here, the environment, results that are kept as JSON."""
