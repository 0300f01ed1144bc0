"""Detection of generated images: statistics, and the distortions that they should survive."""
