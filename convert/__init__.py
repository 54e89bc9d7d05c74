"""Turn a trained module into integers: trace, fold, quantise, schedule, and prove each step."""

if __name__ != "avsnn.convert":  # a shell started in the repository root finds this folder under its bare name
    raise ImportError("import avsnn.convert, not convert: the folder is part of the avsnn package")
