"""The worker's event loop: how it is made and ended. Called by pycrew-worker."""


def check(name):
    """In the zygote: options.loop can be had. What it needs is imported here, and shared."""
    if name == "asyncio":
        return
    if name == "uvloop":
        try:
            import uvloop
        except ImportError as error:
            import sys
            raise ImportError(f"options.loop is uvloop, which {sys.executable} does not find ({error}): "
                              "install the Debian package python3-uvloop") from None
        return
    _find(name)


def _find(name):
    import importlib
    module, _, names = name.partition(":")
    found = importlib.import_module(module)
    for part in names.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"options.loop is {name}, which is not callable: it is of type {type(found).__name__}")
    return found


def make(name):
    """A loop, which is not made this thread's own: a plain function finds none, as in any program."""
    import asyncio
    if name is None:
        return asyncio.new_event_loop()  # as the policy says that user code may have set
    if name == "asyncio":
        return asyncio.SelectorEventLoop()
    if name == "uvloop":
        import uvloop
        return uvloop.new_event_loop()
    return _find(name)()


def end(loop):
    """Cancels the tasks that are left, and lets them end."""
    import asyncio
    if loop.is_closed():
        return
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            loop.call_exception_handler({"message": "unhandled exception at the worker's end",
                                         "exception": task.exception(), "task": task})
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
