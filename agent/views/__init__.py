"""Everything that is shown: lines, the live screen, notifications, the report page.

Uses report and journal. Nothing parses these texts, and no other package imports this one except the commands.
"""
