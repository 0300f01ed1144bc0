"""Conditions in files: those that come with the data, and those to draw samples for."""
