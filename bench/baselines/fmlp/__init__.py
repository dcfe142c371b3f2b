"""FMLP-Rec: learnable filters in the frequency domain instead of attention."""
