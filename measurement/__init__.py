"""Code that evaluation and speed share: configured models, the environment, and results stored as JSON."""
