"""UniSRec: sequence representations from item texts, carried over from other domains."""
