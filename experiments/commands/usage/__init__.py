"""Answers about the program itself: --help, and the list of configs."""
