"""Published networks, a function each, and the list that they are found in."""
