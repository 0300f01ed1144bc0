"""Studies that end in one picture of how diffusion models work, beside a table of its numbers."""
