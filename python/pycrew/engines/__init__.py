"""Engines: factories that return a concurrent.futures.Executor for the option `engine`."""
