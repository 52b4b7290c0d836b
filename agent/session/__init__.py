"""The steps of the loop: start, baseline, propose, measure, judge, record; also recovery, confirm and ablate.

Uses all packages below. Each step is journaled before it takes effect.
"""
