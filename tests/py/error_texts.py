"""What doc/errors.md, the tests of its rows and the sources say, for tests/errors.t and tests/cli-errors.t."""
import ast
import glob
import os
import re

TOP = os.environ.get("top_srcdir") or os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
NAME = re.compile(r"\*\w+\*")
C_TESTS = ["tests/test-errors.c", "tests/test-errors-arrays.c", "tests/test-errors-python.c"]
C_TOKEN = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\w+|\s+|.", re.S)
CONVERSION = re.compile(r"%[-+ #0]*[\d*]*(?:\.[\d*]+)?(?:hh|h|ll|l|z|t|j)?[diouxXeEfgGcspRSU]|%%")


def pattern(text):
    """A regular expression for a text in which *name* stands for anything, but not for nothing."""
    return ".+".join(re.escape(part) for part in NAME.split(text))


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return file.read()


def unescape_c(text):
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), text)


def c_tokens(text):
    """Without spaces and comments; neighbouring string literals, and PRI macros between them, are one."""
    tokens = []
    for found in C_TOKEN.finditer(text):
        token = found.group()
        if token.isspace() or token.startswith(("//", "/*")) or token == "\\":
            continue
        if tokens and tokens[-1][0] == '"' and token.startswith("PRI"):
            tokens[-1] = tokens[-1][:-1] + 'u"'
        elif tokens and tokens[-1][0] == '"' and token[0] == '"':
            tokens[-1] = tokens[-1][:-1] + token[1:]
        else:
            tokens.append(token)
    return tokens


# ---- the page ----


def cells_of_page():
    """The four cells of each row of doc/errors.md's tables: code, text, cause, what to do."""
    found = []
    for line in read("doc/errors.md").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0] not in ("code", "exit") and not cells[0].startswith("---"):
            found.append([cells[0].strip("`"), re.sub(r"\\([\\`|<>_*])", r"\1", cells[1]), *cells[2:]])
    return found


def rows_of_page():
    """(code, text) of each."""
    return [(code, text) for code, text, *_ in cells_of_page()]


# ---- the tests ----


def rows_of_c_test(path):
    tokens, rows = c_tokens(read(path)), []
    for at, token in enumerate(tokens):
        if token in ("ERROR", "RAISED", "LOGGED") and tokens[at + 1] == "(" and tokens[at - 1] != "define":
            code, at = ("log", at + 2) if token == "LOGGED" else ("", at + 2)
            while tokens[at] != "," and token != "LOGGED":
                code += tokens[at]
                at += 1
            text = tokens[at if token == "LOGGED" else at + 1]
            rows.append((code.strip('"'), unescape_c(text[1:-1])))
    return rows


def rows_of_command_test(path="tests/cli-errors.t"):
    tree, rows = ast.parse(read(path)), []
    help_text = next(node.value.value for node in tree.body
                     if isinstance(node, ast.Assign) and node.targets[0].id == "HELP")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Row":
            code, text = node.args[0].value, node.args[1]
            rows.append((str(code), text.left.value + help_text if isinstance(text, ast.BinOp) else text.value))
    return rows


def rows_of_tests():
    return [row for path in C_TESTS for row in rows_of_c_test(path)] + rows_of_command_test()


# ---- the sources ----


def is_words(text):
    """Whether it is said to people: words, not a name, a format or a program."""
    plain = CONVERSION.sub("", text)
    return re.search(r"[a-z]{2,}'?,? [a-z(]{2,}", plain) is not None and "\n    " not in text


def c_texts(path):
    texts, statement = [], []
    for token in c_tokens(read(path)):
        if token in (";", "{", "}"):
            statement = []
        elif token[0] == '"' and is_words(unescape_c(token[1:-1])):
            if not {"static_assert", "FIELD", "ALL"} & set(statement):
                texts.append(unescape_c(token[1:-1]))
        statement.append(token)
    return texts


def python_text(node):
    """A string, or an f-string with {}s; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "%s" for part in node.values)
    return None


def strings_in(node):
    """Those of an expression; f-strings whole."""
    text = python_text(node)
    if text is not None:
        return [text]
    return [text for inner in ast.iter_child_nodes(node) for text in strings_in(inner)]


def python_texts(path):
    texts = []
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, (ast.Raise, ast.Return)):
            texts += strings_in(node)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "say":
            texts += strings_in(node)
    return [text for text in texts if is_words(text)]


def sources():
    for folder, ends in [("lib", "ch"), ("lib/shm", "ch"), ("worker", "ch"), ("cli", "ch")]:
        for end in ends:
            yield from sorted(glob.glob(os.path.join(TOP, folder, "*." + end)))
    yield from sorted(glob.glob(os.path.join(TOP, "python/pycrew/**/*.py"), recursive=True))


def texts_of_sources():
    """(path, text) of all that a user might be told; conversions as printf has them."""
    for path in sources():
        path = os.path.relpath(path, TOP)
        for text in python_texts(path) if path.endswith(".py") else c_texts(path):
            yield path, text.strip()


def is_said(text, page):
    """Whether a text of the sources, or a part of one, stands in one of the page's texts, which are lines."""
    parts = [part for part in CONVERSION.split(text.strip()) if part]
    if not all(part in page for part in parts):
        return False
    return re.search(".*?".join(re.escape(part) for part in parts), page) is not None


def elsewhere():
    """(path, text) of tests/errors-elsewhere: what is no row of the page, and why it is not."""
    listed = []
    for line in read("tests/errors-elsewhere").splitlines():
        if line and not line.startswith("#"):
            path, _, text = line.partition(": ")
            listed.append((path, text.replace("\\n", "\n").strip()))
    return listed
