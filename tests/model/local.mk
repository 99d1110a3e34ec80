# tests/model/: the protocol's models for Spin (Debian: spin). Not a part of make check: they need
# Spin, and `make check-model-full` some minutes and gigabytes.
model_files = \
	tests/model/README.md \
	tests/model/announce.pml \
	tests/model/async.pml \
	tests/model/check \
	tests/model/chunk.pml \
	tests/model/idle.pml \
	tests/model/inbox.pml \
	tests/model/retained.pml \
	tests/model/ring.pml \
	tests/model/slot.pml \
	tests/model/upcall.pml \
	tests/model/waiter.pml
EXTRA_DIST += $(model_files)

.PHONY: check-model check-model-full check-model-controls
check-model:
	$(PYTHON) $(top_srcdir)/tests/model/check
check-model-full:
	$(PYTHON) $(top_srcdir)/tests/model/check --full
check-model-controls:
	$(PYTHON) $(top_srcdir)/tests/model/check --controls
	$(PYTHON) $(top_srcdir)/tests/model/check --spares
