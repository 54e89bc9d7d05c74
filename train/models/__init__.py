"""The networks of the papers: a configuration to a `torch.nn.Module`."""
