"""One file per way of executing a scheduled graph."""
