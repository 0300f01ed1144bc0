"""Mode serve: a page in the browser for a trained model.

serve.py opens it, layout.py has its fields and its buttons, and studio.py what these do.
"""
