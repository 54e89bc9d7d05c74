"""The representation: nodes, graphs, their text, their files and their meaning."""
