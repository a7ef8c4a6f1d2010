"""Results as one page to look at: `crossrt report`."""
