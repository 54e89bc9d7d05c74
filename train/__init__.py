"""Train spiking networks: data, neurons, models, losses, the training loop, checkpoints."""

if __name__ != "avsnn.train":  # a shell started in the repository root finds this folder under its bare name
    raise ImportError("import avsnn.train, not train: the folder is part of the avsnn package")
