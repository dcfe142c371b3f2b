"""Amazon 2014 files."""
