"""The result of `crossrt bench`: storing, printing and comparing it."""
