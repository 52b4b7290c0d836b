"""Everything that is shown: lines, the live screen, notifications, the report page.

Imports report and journal. Nothing parses these texts, and only cli imports this package.
"""
