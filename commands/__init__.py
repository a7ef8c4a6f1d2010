"""The commands of `crossrt`: each parses words, calls one function, prints."""
