"""`flask demo`: two real instances on this machine, and what happens between them, told line by line.

The demo is the first user of the project: it starts each instance by `flask up` and uses nothing but its
API and its commands.
"""
