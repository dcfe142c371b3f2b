"""RecFormer: items and users as text, read by one encoder with item positions."""
