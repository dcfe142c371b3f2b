"""Stored runs to tables."""
