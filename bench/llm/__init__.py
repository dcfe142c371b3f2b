"""Language models as rankers: prompts, LoRA training, scorers, engines, the adapter store."""
