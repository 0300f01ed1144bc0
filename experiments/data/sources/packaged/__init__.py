"""Data that other packages bring along, cut into samples of one shape."""
