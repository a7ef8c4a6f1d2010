"""The backends, which compute batches: one module each."""
