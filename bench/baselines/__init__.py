"""Reference rows and baselines that are not LLM recommenders."""
