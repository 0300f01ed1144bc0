"""The fields of a config: reading and writing them, options of components, older versions."""
