"""Results as one HTML page: `crossrt report`."""
