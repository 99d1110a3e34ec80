"""A module that cannot be imported."""
raise LookupError("this module fails at import")
