"""Preloaded, this makes numpy look as if it were not installed."""
import sys

sys.modules["numpy"] = None
