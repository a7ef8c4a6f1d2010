"""The steps of an export: each writes an artefact, judges it and says what the manifest records of it."""
