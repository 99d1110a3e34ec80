"""Reads a module's annotations. What has no C type is an error with file and line; all are found at once."""
import ast
import collections.abc
import dataclasses
import importlib
import inspect
import os
import sys
import types
import typing
import warnings

from . import model

_SCALARS = {int: model.INT, float: model.FLOAT, bool: model.BOOL, str: model.STR, bytes: model.BYTES}
_UNIONS = {typing.Union, getattr(types, "UnionType", typing.Union)}
_STREAMS = {collections.abc.Iterator: False, collections.abc.Iterable: False, collections.abc.Generator: False,
            collections.abc.AsyncIterator: True, collections.abc.AsyncIterable: True,
            collections.abc.AsyncGenerator: True}
_AWAITABLES = {collections.abc.Awaitable, collections.abc.Coroutine}
_DTYPES = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
           "float16", "float32", "float64", "complex64", "complex128"}


class Unsupported(Exception):
    """An annotation that has no C type; why."""


def _name_of(annotation):
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__qualname__
    return str(annotation).replace("typing.", "")


# ---- one annotation --------------------------------------------------------------------------------

class _Reader:
    """Annotations to types. Remembers dataclasses, and refuses those that contain themselves."""

    def __init__(self):
        self.structs, self.open = {}, []

    def returned(self, annotation):
        """A function's result: type, and whether it is awaited for."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in _AWAITABLES and arguments:
            return self.returned(arguments[-1])[0], True
        if annotation is None or annotation is type(None):
            return model.Nothing(), False
        if origin in _STREAMS and arguments:
            return model.Stream(self.value(arguments[0]), _STREAMS[origin]), False
        return self.value(annotation), False

    def value(self, annotation):
        """What can be a value anywhere."""
        try:
            hash(annotation)
        except TypeError:  # Literal[[]], Annotated with a list
            raise Unsupported("has no C type") from None
        if annotation in _STREAMS or typing.get_origin(annotation) in _STREAMS:
            raise Unsupported("is for results only; a parameter can be a list")
        if annotation is None or annotation is type(None):
            raise Unsupported("alone is for results only")
        if annotation is typing.Any or annotation is object:
            raise Unsupported("says nothing about the type")
        if hasattr(annotation, "__supertype__"):  # a NewType
            return self.value(annotation.__supertype__)
        if annotation in _SCALARS:
            return _SCALARS[annotation]
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self.generic(annotation, origin, typing.get_args(annotation))
        if isinstance(annotation, type):
            return self.class_of(annotation)
        raise Unsupported("has no C type")

    def generic(self, annotation, origin, arguments):
        if origin in _UNIONS:
            others = [argument for argument in arguments if argument is not type(None)]
            if len(others) != 1:
                raise Unsupported("is one of several types; of unions only Optional has a C type")
            return model.Optional(self.value(others[0]))
        if origin in (list, collections.abc.Sequence):
            return model.List(self.value(arguments[0]))
        if origin is tuple:
            return self.tuple_of(arguments)
        if origin in (dict, collections.abc.Mapping):
            key = self.value(arguments[0])
            if key not in (model.STR, model.INT):
                raise Unsupported("has keys that are neither str nor int")
            return model.Dict(key, self.value(arguments[1]))
        if getattr(origin, "__module__", "") == "numpy" and origin.__name__ == "ndarray":
            return model.Array(self.dtype_of(arguments))
        raise Unsupported("has no C type")

    def tuple_of(self, arguments):
        if not arguments or arguments == ((),):
            raise Unsupported("has no items")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return model.List(self.value(arguments[0]), True)
        return model.Tuple(tuple(self.value(argument) for argument in arguments))

    def dtype_of(self, arguments):
        import numpy
        scalar = typing.get_args(arguments[1]) if len(arguments) == 2 else ()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's of numpy.floating, for which it takes float64
            try:
                dtype = numpy.dtype(scalar[0])
            except (IndexError, TypeError):  # Any
                dtype = None
        if dtype is None or dtype.type is not scalar[0] or dtype.name not in _DTYPES:
            raise Unsupported("is of no certain dtype: bool, ints, floats and complex are")
        return dtype.name

    def class_of(self, annotation):
        if annotation.__module__ == "numpy" and annotation.__name__ == "ndarray":
            raise Unsupported("is of no certain dtype: numpy.typing.NDArray[numpy.float64] is")
        if annotation in (list, dict, tuple):
            better = "dict[str, int]" if annotation is dict else f"{annotation.__name__}[int]"
            raise Unsupported(f"says nothing about its items: {better} does")
        if dataclasses.is_dataclass(annotation):
            fields = [(f.name, f.init) for f in dataclasses.fields(annotation)]
            if any(f._field_type is dataclasses._FIELD_INITVAR
                   for f in annotation.__dataclass_fields__.values()):
                raise Unsupported("has an InitVar, which is no field")
        elif issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
            fields = [(name, True) for name in annotation._fields]
        else:
            raise Unsupported("has no C type")
        return self.struct_of(annotation, fields)

    def struct_of(self, annotation, fields):
        if annotation in self.structs:
            return self.structs[annotation]
        if annotation in self.open:
            raise Unsupported("contains itself")
        if "<locals>" in annotation.__qualname__ or not fields:
            raise Unsupported("has no fields" if not fields else "is inside of a function")
        self.open.append(annotation)
        try:
            struct = model.Struct(annotation.__module__, annotation.__qualname__,
                                  tuple(self.field_of(annotation, *field) for field in fields),
                                  _doc_of(annotation))
        finally:
            self.open.pop()
        self.structs[annotation] = struct
        return struct

    def field_of(self, annotation, name, init):
        try:
            hints = typing.get_type_hints(annotation)
        except Exception as error:  # whatever evaluating them raises
            raise Unsupported(f"has fields whose annotations raise {type(error).__name__}: {error}") from None
        if not init:
            raise Unsupported(f"cannot be made: its __init__ does not take its field {name}")
        if not name.isascii():
            raise Unsupported(f"has a field {name}, which is no name in C")
        if name not in hints:
            raise Unsupported(f"has a field {name} without an annotation")
        try:
            return name, self.value(hints[name])
        except Unsupported as error:
            raise Unsupported(f"has a field {name}: {_name_of(hints[name])}, which {error}") from None


def _doc_of(thing):
    doc = inspect.getdoc(thing) if "__doc__" in vars(thing) else ""
    if isinstance(thing, type) and doc and doc.startswith(thing.__name__ + "("):
        return ""  # what dataclass and NamedTuple write
    return doc or ""


# ---- where things stand ----------------------------------------------------------------------------

class _Source:
    """The text of the module's file: lines of functions, parameters and results, as they are written."""

    def __init__(self, file):
        self.file, self.functions = file, {}
        try:
            with open(file, "rb") as text:
                tree = ast.parse(text.read())
        except (OSError, SyntaxError, TypeError):
            return
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.functions[node.name, node.lineno] = node

    def node_of(self, function):
        code = getattr(inspect.unwrap(function), "__code__", None)
        if code is None:
            return None
        lines = [line for name, line in self.functions
                 if name == code.co_name and line >= code.co_firstlineno]  # decorators come first
        return self.functions[code.co_name, min(lines)] if lines else None

    def place(self, function, parameter=None):
        """Line, and the text of an annotation or None."""
        node = self.node_of(function)
        if node is None:
            code = getattr(inspect.unwrap(function), "__code__", None)
            return code.co_firstlineno if code else 1, None
        if parameter is None:
            return node.lineno, None
        if parameter == "return":
            return (node.returns.lineno, ast.unparse(node.returns)) if node.returns else (node.lineno, None)
        arguments = node.args
        for argument in [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs,
                         arguments.kwarg]:
            if argument is not None and argument.arg == parameter:
                return argument.lineno, ast.unparse(argument.annotation) if argument.annotation else None
        return node.lineno, None


# ---- a module --------------------------------------------------------------------------------------

class _Module:
    def __init__(self, module):
        self.module, self.errors, self.reader = module, [], _Reader()
        self.file = getattr(module, "__file__", None) or module.__name__
        self.source = _Source(self.file)

    def say(self, line, what):
        file = os.path.relpath(self.file)
        self.errors.append(f"{self.file if file.startswith('..') else file}:{line}: {what}")

    def functions(self, only):
        """Name and function, in the order of the file."""
        public = getattr(self.module, "__all__", None)
        found = []
        for name, thing in vars(self.module).items():
            function = inspect.unwrap(thing) if callable(thing) else None
            if not inspect.isfunction(function) or function.__module__ != self.module.__name__:
                continue
            if name in only if only else name in public if public is not None else not name.startswith("_"):
                found.append((name, thing))
        for name in only:
            if name not in dict(found):
                self.say(1, f"{name}: there is no such function")
        return sorted(found, key=lambda pair: self.source.place(pair[1])[0])

    def annotation_of(self, name, function, parameter):
        """What stands there, evaluated; None where that failed, which is said."""
        plain = inspect.unwrap(function)
        line, text = self.source.place(function, parameter)
        if parameter not in plain.__annotations__:
            what = "the result" if parameter == "return" else f"the parameter {parameter}"
            self.say(line, f"{name}: {what} has no annotation")
            return None
        holder = types.SimpleNamespace(__annotations__={parameter: plain.__annotations__[parameter]})
        try:
            return typing.get_type_hints(holder, plain.__globals__)[parameter]
        except Exception as error:  # whatever evaluating it raises
            self.say(line, f"{name}: {parameter}: {text}: {type(error).__name__}: {error}")
            return None

    def read(self, name, function, parameter, by):
        annotation = self.annotation_of(name, function, parameter)
        if annotation is None:
            return None
        try:
            return by(annotation)
        except Unsupported as error:
            line, text = self.source.place(function, parameter)
            self.say(line, f"{name}: {parameter}: {text or _name_of(annotation)} {error}")
            return None

    def parameter(self, name, function, parameter):
        line = self.source.place(function, parameter.name)[0]
        if parameter.kind is parameter.VAR_KEYWORD:
            self.say(line, f"{name}: **{parameter.name} has no fixed names; give them as parameters")
            return None
        if not parameter.name.isascii():
            self.say(line, f"{name}: {parameter.name} is no name in C")
            return None
        type = self.read(name, function, parameter.name, self.reader.value)
        if type is None:
            return None
        star = parameter.kind is parameter.VAR_POSITIONAL
        default = None if parameter.default is parameter.empty else _shown(parameter.default)
        return model.Parameter(parameter.name, model.List(type) if star else type, default,
                               parameter.kind is parameter.KEYWORD_ONLY, star)

    def function(self, name, function):
        plain = inspect.unwrap(function)
        parameters = [self.parameter(name, function, p) for p in inspect.signature(plain).parameters.values()]
        returns = self.read(name, function, "return", self.reader.returned)
        if not name.isascii():
            self.say(self.source.place(function)[0], f"{name} is no name in C")
        if returns is None or None in parameters:
            return None
        awaited = returns[1] or inspect.iscoroutinefunction(plain)
        return model.Function(self.module.__name__, name, tuple(parameters), returns[0], awaited,
                              inspect.getdoc(plain) or "")

    def read_all(self, only):
        functions = [self.function(name, function) for name, function in self.functions(only)]
        if not functions and not self.errors:
            self.say(1, "defines no function")
        if self.errors:
            return None
        module = model.Module(self.module.__name__, os.path.basename(self.file),
                              inspect.getdoc(self.module) or "", tuple(functions))
        self.check_names(module)
        return None if self.errors else module

    def check_names(self, module):
        """Two classes of one name cannot both be a struct of that name."""
        by_tag = {}
        for struct in module.structs():
            other = by_tag.setdefault(struct.tag, struct)
            if other is not struct:
                self.say(1, f"{struct.tag} is a class of {other.module} and of {struct.module}: "
                            f"their structs would have one name")


def _shown(default):
    text = repr(default)
    return text if len(text) <= 60 and "\n" not in text else "..."


def read(name, only=()):
    """The module of that name: a model.Module, or None; the errors; and the files that it was read from."""
    before = set(sys.modules)
    module = importlib.import_module(name)
    reader = _Module(module)
    result = reader.read_all(list(only))
    folder = os.path.dirname(os.path.abspath(reader.file))
    files = [reader.file]
    for other in sorted(set(sys.modules) - before):
        file = getattr(sys.modules[other], "__file__", None)
        if file and file != reader.file and os.path.abspath(file).startswith(folder + os.sep):
            files.append(file)
    return result, reader.errors, files
