"""pycrew stubs: C and C++ functions with the types of a module's annotations. `pycrew stubs` calls generate() in a
worker, where the module can be imported as it will be later, and a crash is an error as any other.

annotations   reads them, into what model has
adapter       Python text for functions with dataclasses
emit_c        the C header and its source
emit_cpp      the C++ header
names         what both need of C's grammar"""
import os
import types

from . import annotations, emit_c, emit_cpp, names


def _checked(module, prefix, int, sized_str, crew):
    options = types.SimpleNamespace(prefix=prefix or module.replace(".", "_") + "_", int=int or "int64_t",
                                    sized_str=sized_str, crew=crew)
    if options.int not in emit_c.INTS:
        return options, f"--int: {options.int} is none of {', '.join(emit_c.INTS)}"
    for option, name in ("--prefix", options.prefix), ("--crew", crew or "x"):
        if not name.isascii() or not name.isidentifier() or names.field(name) != name:
            return options, f"{option}: {name} is no name in C"
    if not options.prefix.rstrip("_"):
        return options, f"--prefix: {options.prefix} is too little"
    return options, None


def _rule(targets, files):
    """For make: what the files were made from. Files that are gone must not stop it."""
    words = [file.replace("$", "$$").replace(" ", "\\ ") for file in files]
    return "\n".join([" ".join(targets) + ": " + " \\\n ".join(words), ""] + [f"\n{word}:" for word in words[1:]]) + "\n"


def _clashes(names):
    """Names that would stand for two things."""
    seen = {}
    for name, of in names:
        other = seen.setdefault(name, of)
        if other != of:
            yield f"{name} would be the name of {other} and of {of}: --only or another --prefix helps"


def generate(module, *, prefix="", output="", c_header="", c_source="", cpp_header="", depfile="", int="",
             sized_str=False, crew="", only=()):
    """Errors, each a line; and files, names and texts. Where there are errors there are no files."""
    options, error = _checked(module, prefix, int, sized_str, crew)
    if error:
        return [error], []
    read, errors, sources = annotations.read(module, only)
    if errors:
        return errors, []
    if not (c_header or c_source or cpp_header):
        base = os.path.join(output, options.prefix.rstrip("_"))
        c_header, c_source, cpp_header = base + ".h", base + ".c", "" if crew else base + ".hpp"
    files = []
    c, cpp = emit_c.Writer(read, options), emit_cpp.Writer(read, options)
    clashes = list(_clashes(c.names())) + (list(_clashes(cpp.names())) if cpp_header else [])
    if clashes:
        return clashes, []
    if c_header:
        files.append((c_header, c.header(os.path.basename(c_header))))
    if c_source:
        header = c_header or os.path.splitext(c_source)[0] + ".h"
        files.append((c_source, c.source(os.path.basename(header))))
    if cpp_header:
        files.append((cpp_header, cpp.header(os.path.basename(cpp_header))))
    if depfile:
        files.append((depfile, _rule([name for name, text in files], sources)))
    return [], files
