"""A page in the browser for a trained model: what it draws (studio.py), and how it looks."""
