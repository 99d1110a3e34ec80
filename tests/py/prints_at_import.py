"""A module that prints when it is imported."""
print("printed at import")
