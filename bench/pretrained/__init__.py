"""Pre-trained models on this machine: their folders, downloads, and silence while they load."""
