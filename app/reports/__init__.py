"""Read-only questions to the database: what lists and pages show.

Everything here answers in the shapes of `details`, which the API, the command line and the pages share.
"""
