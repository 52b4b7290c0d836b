"""The steps of the loop: start, baseline, propose, measure, judge, record; also recovery.

Imports all packages below it. Each step is journaled before it takes effect.
"""
