"""The conformance kit: what every method must satisfy."""
