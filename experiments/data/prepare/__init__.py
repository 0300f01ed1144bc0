"""Data sets made of whatever image files there are: a folder that is read fast and lazily."""
