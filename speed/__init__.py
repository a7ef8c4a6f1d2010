"""How fast bundles score here: `crossrt bench`."""
