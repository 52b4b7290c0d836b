"""A station: measure what a decider on another machine orders, in a clone of its own. It knows nothing of Dask."""
