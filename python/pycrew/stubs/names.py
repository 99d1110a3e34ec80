"""Names, comments and strings in C and C++."""
import json

_RESERVED = set("""alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t char8_t
class co_await co_return co_yield compl complex concept const const_cast consteval constexpr constinit continue decltype
default delete do double dynamic_cast else enum errno explicit export extern false final float for friend goto if imaginary
import inline int linux long module mutable namespace new noexcept not not_eq nullptr operator or or_eq override private
protected public register reinterpret_cast requires restrict return short signed sizeof static static_assert static_cast
struct switch template this thread_local throw true try typedef typeid typename typeof union unix unsigned using virtual
void volatile wchar_t while xor xor_eq NULL EOF stdin stdout stderr""".split())

# What the generated functions call their own.
_OURS = {"call", "crew", "held", "item", "present", "queue", "rc", "ret", "size", "std", "stream", "timeout_ns"}


def local(name, taken=()):
    """A parameter's name."""
    while name in _RESERVED or name in _OURS or name in taken:
        name += "_"
    return name


def field(name):
    """A struct's member."""
    return name + "_" if name in _RESERVED else name


def comment(text, indent=""):
    """Lines of a comment, or none."""
    lines = text.replace("*/", "* /").replace("/*", "/ *").replace("??/", "?? /").strip().splitlines()
    if not lines:
        return []
    if len(lines) == 1:
        return [f"{indent}/* {lines[0]} */"]
    body = [f"{indent} * {line}".rstrip() for line in lines[1:]]
    return [f"{indent}/* {lines[0]}".rstrip()] + body[:-1] + [body[-1] + " */"]


def string(text):
    """A literal, a line for each line; bytes beyond ASCII and what could be a trigraph in octal."""
    def literal(line):
        out = []
        for byte in line.encode():
            character = chr(byte)
            out.append(json.dumps(character)[1:-1] if character in '"\\' or (32 <= byte < 127 and character != "?")
                       else "\\n" if character == "\n" else f"\\{byte:03o}")
        return '"' + "".join(out) + '"'
    return [literal(line) for line in text.splitlines(keepends=True)] or ['""']


def declaration(start, arguments, end, width=100):
    """A function's head: in one line, or cut between arguments."""
    lines, line = [], start + "("
    indent = " " * len(line) if len(line) < 60 else " " * 8
    for index, argument in enumerate(arguments):
        word = argument + (", " if index + 1 < len(arguments) else ")" + end)
        if len(line) + len(word.rstrip()) > width and line.strip():
            lines.append(line.rstrip())
            line = indent
        line += word
    return lines + [line.rstrip()]
