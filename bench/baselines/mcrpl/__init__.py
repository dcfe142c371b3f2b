"""MCRPL: one id-based Transformer for the union of all domains, with learned prompt vectors."""
