"""Python text between a stub and a function that has dataclasses in its types: they travel as tuples of their
fields, and become themselves in the worker. It is the stub's source (pycrew_function_source)."""
from . import model


def needed(function):
    """Whether the function needs it."""
    types = [parameter.type for parameter in function.parameters] + [function.returns]
    return any(type.contains(model.Struct) for type in types)


class _Text:
    def __init__(self, function):
        self.function, self.lines, self.names, self.modules = function, [], {}, {}
        self.module_name(function.module)

    def module_name(self, module):
        if module not in self.modules:
            self.modules[module] = f"_m{len(self.modules)}"
            self.lines.append(f"import {module} as {self.modules[module]}")
        return self.modules[module]

    def converter(self, type, way):
        """The name of a function that converts a value of this type; None: it stays as it is."""
        if not type.contains(model.Struct):
            return None
        if (type, way) not in self.names:
            body = getattr(self, f"{way}_{type.__class__.__name__.lower()}")(type)
            name = f"_{way}{len(self.names)}"
            self.names[type, way] = name
            self.lines.append(f"def {name}(v): return {body}")
        return self.names[type, way]

    def converted(self, type, way, value):
        name = self.converter(type, way)
        return f"{name}({value})" if name else value

    # What is not of the type is left as it is, for the stub to say so.

    def into_optional(self, type):
        return f"None if v is None else {self.converted(type.item, 'into', 'v')}"

    def from_optional(self, type):
        return f"None if v is None else {self.converted(type.item, 'from', 'v')}"

    def into_list(self, type):
        return f"{'tuple' if type.is_tuple else 'list'}(map({self.converter(type.item, 'into')}, v))"

    def from_list(self, type):
        return f"list(map({self.converter(type.item, 'from')}, v)) if isinstance(v, (list, tuple)) else v"

    def items(self, type, way):
        return ", ".join(self.converted(item, way, f"v[{i}]") for i, item in enumerate(type.items))

    def into_tuple(self, type):
        return f"({self.items(type, 'into')},)"

    def from_tuple(self, type):
        return (f"({self.items(type, 'from')},) if isinstance(v, (list, tuple)) and len(v) == {len(type.items)}"
                f" else v")

    def into_dict(self, type):
        return f"{{k: {self.converted(type.value, 'into', 'x')} for k, x in v.items()}}"

    def from_dict(self, type):
        return f"{{k: {self.converted(type.value, 'from', 'x')} for k, x in v.items()}} if isinstance(v, dict) else v"

    def into_struct(self, type):
        fields = ", ".join(f"{name}={self.converted(field, 'into', f'v[{i}]')}"
                           for i, (name, field) in enumerate(type.fields))
        return f"{self.module_name(type.module)}.{type.qualname}({fields})"

    def from_struct(self, type):
        fields = ", ".join(self.converted(field, "from", f"v.{name}") for name, field in type.fields)
        return f"({fields},) if isinstance(v, {self.module_name(type.module)}.{type.qualname}) else v"

    def arguments(self):
        """Lines that convert those in the list a and the dict k."""
        place = 0
        for parameter in self.function.parameters:
            if parameter.star:
                name = self.converter(parameter.type.item, "into")
                if name:
                    yield f"    a[{place}:] = map({name}, a[{place}:])"
            else:
                name = self.converter(parameter.type, "into")
                if name and parameter.keyword:
                    yield f"    if {parameter.name!r} in k: k[{parameter.name!r}] = {name}(k[{parameter.name!r}])"
                elif name:
                    yield f"    if len(a) > {place}: a[{place}] = {name}(a[{place}])"
                place += not parameter.keyword

    def body(self):
        function, returns = self.function, self.function.returns
        call = f"_m0.{function.name}(*a, **k)"
        if isinstance(returns, model.Stream):
            yield f"    {'async for' if returns.asynchronous else 'for'} x in {call}:"
            yield f"        yield {self.converted(returns.item, 'from', 'x')}"
        else:
            yield f"    return {self.converted(returns, 'from', ('await ' if function.awaited else '') + call)}"

    def text(self):
        function, returns = self.function, self.function.returns
        body = ["    a = list(a)"] + list(self.arguments()) + list(self.body())
        asynchronous = function.awaited or (isinstance(returns, model.Stream) and returns.asynchronous)
        first, *parts = function.module.split(".")
        space = f"_N({function.name}={function.name})"
        for part in reversed(parts):
            space = f"_N({part}={space})"
        return "\n".join(["from types import SimpleNamespace as _N"] + self.lines +
                         [f"{'async ' if asynchronous else ''}def {function.name}(*a, **k):"] + body +
                         [f"{first} = {space}", ""])


def source(function):
    """The name to be looked up in the text, and the text."""
    return f"{function.module}.{function.name}", _Text(function).text()
