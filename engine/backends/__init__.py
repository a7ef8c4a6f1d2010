"""The runtimes that compute a batch, one module each."""
