"""The files of a bundle besides its models."""
