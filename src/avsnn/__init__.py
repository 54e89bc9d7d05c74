"""avsnn: from a spiking network trained in PyTorch to neuromorphic hardware, proved to be the same network.

Read in the order data flows: `avsnn.train` makes a checkpoint, `avsnn.convert` turns it into integers and
proves every step, `avsnn.deploy` runs the integers and reports, `avsnn.hw_profiles` says what each chip can do
and costs, `avsnn.cli` puts them on the command line.
"""

__version__ = "0.1.0"
