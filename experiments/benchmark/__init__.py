"""What everything around the network costs, and how fast the network itself is."""
