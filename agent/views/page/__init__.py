"""The report as one HTML page with its chart.

Uses the words of views and the data gathered by report.
"""
