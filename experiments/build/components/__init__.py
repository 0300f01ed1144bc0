"""Objects made from the sections of a config; each module makes those of one kind."""
