"""What a module's annotations say: types, and functions with them."""
import dataclasses
import typing


class Type:
    """A type. `tag` names it in C, in a notation that no two types share: list_int; `text` is Python's."""

    def parts(self):
        """The types inside, in their order."""
        return ()

    def all(self):
        """This type and all inside, those inside first, each once."""
        found = {}
        for part in self.parts():
            found.update(dict.fromkeys(part.all()))
        found[self] = None
        return list(found)

    def contains(self, kind):
        return any(isinstance(part, kind) for part in self.all())


@dataclasses.dataclass(frozen=True)
class Scalar(Type):
    text: str  # int, float, bool, str or bytes

    @property
    def tag(self):
        return self.text


INT, FLOAT, BOOL, STR, BYTES = map(Scalar, ("int", "float", "bool", "str", "bytes"))


@dataclasses.dataclass(frozen=True)
class Nothing(Type):
    """None: what a function returns that returns nothing."""
    tag = text = "None"


@dataclasses.dataclass(frozen=True)
class Optional(Type):
    item: Type

    @property
    def tag(self):
        return "optional_" + self.item.tag

    @property
    def text(self):
        return f"Optional[{self.item.text}]"

    def parts(self):
        return (self.item,)


@dataclasses.dataclass(frozen=True)
class List(Type):
    item: Type
    is_tuple: bool = False  # tuple[item, ...]

    @property
    def tag(self):
        return ("tuple_" if self.is_tuple else "list_") + self.item.tag

    @property
    def text(self):
        return f"tuple[{self.item.text}, ...]" if self.is_tuple else f"list[{self.item.text}]"

    def parts(self):
        return (self.item,)


@dataclasses.dataclass(frozen=True)
class Tuple(Type):
    items: typing.Tuple[Type, ...]

    @property
    def tag(self):  # with the number, or tuple[tuple[a], b] were tuple[tuple[a, b]]
        return f"tuple{len(self.items)}_" + "_".join(item.tag for item in self.items)

    @property
    def text(self):
        return f"tuple[{', '.join(item.text for item in self.items)}]"

    def parts(self):
        return self.items


@dataclasses.dataclass(frozen=True)
class Dict(Type):
    key: Type
    value: Type

    @property
    def tag(self):
        return f"dict_{self.key.tag}_{self.value.tag}"

    @property
    def text(self):
        return f"dict[{self.key.text}, {self.value.text}]"

    def parts(self):
        return (self.key, self.value)


@dataclasses.dataclass(frozen=True)
class Array(Type):
    dtype: str  # numpy's name: float64

    @property
    def tag(self):
        return f"array_{self.dtype}"

    @property
    def text(self):
        return f"NDArray[{self.dtype}]"


@dataclasses.dataclass(frozen=True)
class Struct(Type):
    """A dataclass, or a NamedTuple: two of one name are the same only if they are one class."""
    module: str
    qualname: str
    fields: typing.Tuple[typing.Tuple[str, Type], ...]
    doc: str = dataclasses.field(default="", compare=False)

    @property
    def tag(self):
        return self.qualname.replace(".", "_")

    @property
    def text(self):
        return self.qualname

    def parts(self):
        return tuple(type for name, type in self.fields)


@dataclasses.dataclass(frozen=True)
class Stream(Type):
    """An iterator: only what a function returns."""
    item: Type
    asynchronous: bool

    @property
    def tag(self):
        return "stream_" + self.item.tag

    @property
    def text(self):
        return f"{'AsyncIterator' if self.asynchronous else 'Iterator'}[{self.item.text}]"

    def parts(self):
        return (self.item,)


@dataclasses.dataclass(frozen=True)
class Parameter:
    name: str
    type: Type
    default: typing.Optional[str] = None  # as text; None: it has none
    keyword: bool = False  # given by its name
    star: bool = False  # *args: type is a List


@dataclasses.dataclass(frozen=True)
class Function:
    module: str
    name: str
    parameters: typing.Tuple[Parameter, ...]
    returns: Type
    awaited: bool  # a coroutine function, or one that returns an awaitable
    doc: str

    @property
    def full_name(self):
        return f"{self.module}:{self.name}"

    @property
    def has_defaults(self):
        return any(parameter.default is not None for parameter in self.parameters)

    def required(self):
        """The parameters that a call must give."""
        return [p for p in self.parameters if p.default is None and not p.star]


@dataclasses.dataclass(frozen=True)
class Module:
    name: str
    file: str  # its base name
    doc: str
    functions: typing.Tuple[Function, ...]

    def structs(self):
        """All of all functions, those inside others first."""
        found = {}
        for function in self.functions:
            for type in [p.type for p in function.parameters] + [function.returns]:
                found.update((part, None) for part in type.all() if isinstance(part, Struct))
        return list(found)
