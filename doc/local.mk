# doc/: captures (of terminals, made by doc/captures/make), guide.md, errors.md, design.md, invariants.md,
# languages.md, reliability.md, performance.md, and man pages: the command's, the
# worker's, and the library's, where each exported function stands in the NAME section of one page.

function_pages = \
	doc/man/pycrew_actor_open.3 \
	doc/man/pycrew_array_init.3 \
	doc/man/pycrew_batch_open.3 \
	doc/man/pycrew_export.3 \
	doc/man/pycrew_function_get.3 \
	doc/man/pycrew_last_error.3 \
	doc/man/pycrew_map.3 \
	doc/man/pycrew_next.3 \
	doc/man/pycrew_open.3 \
	doc/man/pycrew_prepare.3 \
	doc/man/pycrew_queue_open.3 \
	doc/man/pycrew_run.3 \
	doc/man/pycrew_run_each.3 \
	doc/man/pycrew_stats_get.3 \
	doc/man/pycrew_stub_prepare.3 \
	doc/man/pycrew_value_type.3
man_pages = \
	doc/man/pycrew.1 \
	doc/man/pycrew-stubs.1 \
	doc/man/pycrew-worker.8 \
	doc/man/pycrew.3 \
	doc/man/pycrew_actor_open.3 \
	doc/man/pycrew_array_init.3 \
	doc/man/pycrew_batch_open.3 \
	doc/man/pycrew_export.3 \
	doc/man/pycrew_function_get.3 \
	doc/man/pycrew_last_error.3 \
	doc/man/pycrew_map.3 \
	doc/man/pycrew_next.3 \
	doc/man/pycrew_open.3 \
	doc/man/pycrew_prepare.3 \
	doc/man/pycrew_queue_open.3 \
	doc/man/pycrew_run.3 \
	doc/man/pycrew_run_each.3 \
	doc/man/pycrew_stats_get.3 \
	doc/man/pycrew_stub_prepare.3 \
	doc/man/pycrew_value_type.3
dist_man_MANS += $(man_pages)
EXTRA_DIST += doc/design.md doc/engines.md doc/errors.md doc/guide.md doc/invariants.md doc/languages.md doc/performance.md \
	doc/reliability.md doc/scaling.md doc/man/links \
	doc/performance/single.svg doc/performance/many.svg doc/performance/tail.svg \
	doc/captures/make doc/captures/bar.svg doc/captures/doctor.svg doc/captures/top.svg doc/captures/top-stack.svg \
	doc/performance/sleep.svg doc/performance/start.svg doc/report.png \
	tools/bpftrace/deaths.bt tools/bpftrace/latency.bt tools/bpftrace/queueing.bt

# man pycrew_drain shows pycrew_open(3), and so on.
list_links = (cd $(srcdir) && sh doc/man/links $(function_pages))

install-data-hook:
	$(list_links) | while read -r name page; do \
	    echo ".so man3/$$page" >'$(DESTDIR)$(man3dir)'/$$name.3 || exit 1; \
	done

uninstall-hook:
	$(list_links) | while read -r name page; do \
	    rm -f '$(DESTDIR)$(man3dir)'/$$name.3; \
	done
