"""Bugs that resilience libraries have shipped, each as a script that shows who has it today.

    python -m benchmarks.peer_bugs                      # all, and the matrix; ends with 1 where ours is wrong
    python -m benchmarks.peer_bugs --document           # rewrites the tables in docs/comparison.md
    python -m benchmarks.peer_bugs.half_open_stampede   # one of them

A script runs one scenario over every library that has the feature, ours included, and judges by what it saw. Nothing is
judged by reading. Libraries that are not installed are left out.
"""
