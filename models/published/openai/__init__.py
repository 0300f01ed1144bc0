"""Formats of the U-Nets and encoders of OpenAI, and of what is built on them."""
