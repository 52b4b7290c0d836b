"""Many stations as one: the Dask cluster that carries orders to them, and the programs that run on each machine."""
