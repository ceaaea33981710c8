"""Hot operations, one a file, each with a reference that is always right."""
