"""VQ-Rec: items as discrete codes of their texts, carried over from other domains."""
