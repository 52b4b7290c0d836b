"""The steps of the loop: start, baseline, propose, measure, judge, record; recovery, confirm and ablate.

Uses every room below. Each step is journalled before it takes effect.
"""
