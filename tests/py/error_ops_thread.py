"""Leaves a thread alive: for tests/test-errors.c."""
import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
