"""What the program says of itself: --help, and the list of configs."""
