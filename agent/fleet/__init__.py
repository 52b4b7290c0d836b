"""Many stations, one decider: which station measures what, and the answers that come back.

Imports the decision and the plain data of stations.
"""
