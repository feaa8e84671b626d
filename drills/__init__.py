"""Drills: evil things are done to whole instances, and then both databases are compared row by row.

`python -m drills` starts real instances on this machine, publishes all the while, and does one thing after
the other to them that must not lose anything. Afterwards what the API accepted must be stored at every
subscriber exactly once, in order, and nothing may be left waiting. Each drill prints one line, has a seed,
and can be repeated by its name:

    python -m drills --engine sqlite --seed 7 kill-9
"""
