"""The steps of an export. Each writes an artefact, judges it, and returns its entry for the manifest."""
