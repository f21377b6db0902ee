"""Recipes and their parts, as files; `python -m configs FOLDER` writes them where they can be found and edited."""
