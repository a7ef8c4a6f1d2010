"""The files of a bundle other than its models."""
