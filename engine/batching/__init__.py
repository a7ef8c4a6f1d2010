"""How a request is cut into batches, and how these lie in memory."""
