"""The result of `crossrt bench`: kept, printed and compared."""
