"""The report as one HTML page with its chart.

Imports the words of views and the data that report gathers.
"""
