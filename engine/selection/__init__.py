"""Which backend, precision and shapes a model is opened with."""
