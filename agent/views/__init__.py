"""What a person sees: lines, the live screen, notifications, the report's page.

Uses report and journal. Nothing here is read back, and nothing below knows it.
"""
