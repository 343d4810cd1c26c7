"""Stage 3: how good a restoration is, in numbers and pictures, and beside restorations that need no search.

Exports nothing; its modules are imported by name.
"""
