"""What is in a Python source file: functions, classes, the longest function, names.

    stdlib-stats                                         every file of the standard library
    find . -name '*.py' | pycrew map --files stdlib_stats:stats -
"""

import ast
import warnings

# A file's own bad escapes are not for this program's stderr.
warnings.simplefilter("ignore")

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def stats(path):
    """Counts as a dict. A file that cannot be read or parsed is {"error": why}, not an exception:
    the library has some that are broken on purpose, to test the parser."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return count(tree)


def count(tree):
    functions = classes = longest_lines = 0
    longest = ""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            functions += 1
            names.add(node.name)
            lines = node.end_lineno - node.lineno + 1
            if lines > longest_lines:
                longest, longest_lines = node.name, lines
        elif isinstance(node, ast.ClassDef):
            classes += 1
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return {
        "functions": functions,
        "classes": classes,
        "longest": longest,
        "longest_lines": longest_lines,
        "names": len(names),
    }
