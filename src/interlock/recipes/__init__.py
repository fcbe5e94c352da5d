"""Recipes: programs that many people write, made once from interlock's objects."""
