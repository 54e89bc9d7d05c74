"""Foreign file formats, read into our graphs and written from them."""
