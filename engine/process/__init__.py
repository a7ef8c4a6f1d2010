"""Other processes: children, forks, and libraries that report."""
