"""Run the integers: simulators, Lava, exports, and the reports about them."""

if __name__ != "avsnn.deploy":  # a shell started in the repository root finds this folder under its bare name
    raise ImportError("import avsnn.deploy, not deploy: the folder is part of the avsnn package")
