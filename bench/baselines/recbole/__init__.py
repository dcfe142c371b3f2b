"""RecBole's sequential models on this project's batches and training loop."""
