"""One file per format that a scheduled graph can be written to for people who do not have avsnn."""
