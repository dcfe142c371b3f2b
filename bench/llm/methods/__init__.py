"""Methods that rank with a language model: zero-shot, or with one LoRA adapter."""
