"""What each chip can do and what it costs: one TOML file per chip, every number with its source."""

if __name__ != "avsnn.hw_profiles":  # a shell started in the repository root finds this folder under its bare name
    raise ImportError("import avsnn.hw_profiles, not hw_profiles: the folder is part of the avsnn package")
