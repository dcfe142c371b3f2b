"""WeaveRec: one adapter on the target, one hybrid per source, merged; and its controls."""
