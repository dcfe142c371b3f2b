"""What ``import bench`` offers: tasks, runs, tables and comparisons as a few calls (docs/python.md).

The command line calls the same functions. ``bench`` loads these modules at the first use of one of
their names.
"""
