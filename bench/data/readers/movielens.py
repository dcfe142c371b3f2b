"""MovieLens files."""
