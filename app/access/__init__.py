"""Who may do what here: workspaces, the people in them, and the tokens of their software."""
