"""Weights of other libraries, renamed for our hosts."""
