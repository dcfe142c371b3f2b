"""Domains to tasks: leave-one-out split, leak guard, candidate sets, requests."""
