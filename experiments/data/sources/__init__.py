"""One kind of data set a file: each has load(config), and experiments/data.py names them."""
