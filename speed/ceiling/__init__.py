"""The machine's own ceilings: the best rates of matrix products and of reading memory."""
