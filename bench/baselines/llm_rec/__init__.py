"""LLM-Rec: one text encoder for users and items of all domains, trained on all of them at once."""
