"""A C++ header, on top of pycrew.hpp: the same functions with std::string, std::vector, std::optional, ..."""
from . import adapter, model, names

_DTYPES = {"bool": "bool", "float32": "float", "float64": "double", "complex64": "std::complex<float>",
           "complex128": "std::complex<double>",
           **{f"{k}int{n}": f"std::{k}int{n}_t" for k in ("", "u") for n in (8, 16, 32, 64)}}
_INTS = {"int64_t": "std::int64_t", "int32_t": "std::int32_t"}


class Writer:
    def __init__(self, module, options):
        self.module, self.options = module, options
        self.space = options.prefix.rstrip("_")

    # ---- types -------------------------------------------------------------------------------------

    def value(self, type):
        """The type of a value: in containers, structs and results."""
        if isinstance(type, model.Optional):
            return f"std::optional<{self.value(type.item)}>"
        if isinstance(type, model.List):
            return f"std::vector<{self.value(type.item)}>"
        if isinstance(type, model.Tuple):
            return f"std::tuple<{', '.join(map(self.value, type.items))}>"
        if isinstance(type, model.Dict):
            return f"std::map<{self.value(type.key)}, {self.value(type.value)}>"
        if isinstance(type, model.Array):
            return f"pycrew::array_view<const {_DTYPES[type.dtype]}>"
        if isinstance(type, model.Struct):
            return f"::{self.space}::{names.field(type.tag)}"
        if isinstance(type, model.Nothing):
            return "void"
        return {model.INT: _INTS.get(self.options.int, self.options.int), model.FLOAT: "double", model.BOOL: "bool",
                model.STR: "std::string", model.BYTES: "pycrew::bytes"}[type]

    def result(self, type):
        """Of a call that is gone: an array of its own."""
        return f"pycrew::array<{_DTYPES[type.dtype]}>" if isinstance(type, model.Array) else self.value(type)

    def parameter(self, type):
        if type is model.STR:
            return "std::string_view "
        if type is model.BYTES:
            return "pycrew::bytes_view "
        if isinstance(type, model.Scalar):
            return self.value(type) + " "
        if isinstance(type, model.Optional) and type.item is model.STR:
            return "std::optional<std::string_view> "
        if isinstance(type, model.Array):
            return f"const pycrew::stubs::array_argument<{_DTYPES[type.dtype]}> &"
        return f"const {self.value(type)} &"

    def is_known(self, type):
        """float16 has no type in C++17."""
        return not any(isinstance(part, model.Array) and part.dtype not in _DTYPES for part in type.all())

    def structs(self):
        lines = []
        for struct in self.module.structs():
            if self.is_known(struct):
                lines += names.comment(struct.doc) + [f"struct {names.field(struct.tag)} {{"]
                lines += [f"    {self.value(type)} {names.field(name)}{{}};" for name, type in struct.fields]
                lines += ["};", ""]
        return lines

    def converts(self):
        """They travel as tuples of their fields."""
        lines = []
        for struct in self.module.structs():
            if not self.is_known(struct):
                continue
            name = self.value(struct)
            lines += [f"template <> struct pycrew::convert<{name}> {{"]
            if struct.contains(model.Array):
                lines += ["    static constexpr bool borrows = true;", ""]
            lines += [f"    static int add(pycrew_call *call, const {name} &value)", "    {",
                      "        int rc = pycrew_add_open(call, PYCREW_TUPLE);", ""]
            for field, type in struct.fields:
                lines += ["        if (rc == 0)",
                          f"            rc = pycrew::detail::add(call, value.{names.field(field)});"]
            lines += ["        return rc < 0 ? rc : pycrew_add_close(call);", "    }",
                      f"    static {name} get(pycrew_value value)", "    {",
                      f"        pycrew_value at = pycrew::stubs::fields(value, \"{struct.text}\", {len(struct.fields)});",
                      f"        {name} result;", ""]
            lines += [f"        result.{names.field(field)} = pycrew::detail::take<{self.value(type)}>(at);"
                      for field, type in struct.fields]
            lines += ["        return result;", "    }", "};", ""]
        return lines

    def names(self):
        """All that the header declares in its namespace, and of what each is."""
        yield "detail", "the namespace of stubs"
        for struct in self.module.structs():
            yield names.field(struct.tag), struct.text
        for function in self.module.functions:
            for suffix in "", "_prepare", "_async":
                yield names.field(function.name) + suffix, function.name

    # ---- functions -----------------------------------------------------------------------------------

    def stub(self, function):
        name, text = function.full_name, "nullptr"
        lines = []
        if adapter.needed(function):
            name, source = adapter.source(function)
            text = f"source_{function.name}"
            literal = names.string(source)
            lines = [f"inline constexpr char {text}[] ="] + [f"    {line}" for line in literal[:-1]] + [
                f"    {literal[-1]};"]
        return lines + [f'inline pycrew_stub stub_{function.name} = PYCREW_STUB_INIT("{name}", {text});']

    def names_of(self, chosen):
        taken = []
        for parameter in chosen:
            taken.append(names.local(parameter.name, taken))
        return taken

    def head(self, returns, name, chosen):
        arguments = [self.parameter(p.type) + local for p, local in zip(chosen, self.names_of(chosen))]
        return names.declaration(f"inline {returns} {name}", ["const pycrew::crew &crew"] + arguments, "")

    def given(self, chosen):
        return [f'pycrew::keyword("{p.name}", {local})' if p.keyword else local
                for p, local in zip(chosen, self.names_of(chosen))]

    def prepare(self, function, name, chosen):
        lines = self.head("pycrew::call", f"{name}_prepare", chosen) + [
            "{", f"    pycrew::call call = pycrew::stubs::prepare(crew, detail::stub_{function.name});", ""]
        for parameter, given in zip(chosen, self.given(chosen)):
            if parameter.star:
                lines += [f"    for (const auto &item : {given})", "        call.add(item);"]
            else:
                lines += [f"    call.add({given});"]
        return lines + ["    return call;", "}"]

    def functions(self, function):
        name = names.field(function.name)
        variants = [list(function.parameters)] + ([function.required()] if function.has_defaults else [])
        lines = []
        for chosen in variants:
            if not all(self.is_known(p.type) for p in chosen) or not self.is_known(function.returns):
                return [f"/* {function.name}: C++ has no float16. */", ""]
            lines += self.prepare(function, name, chosen) + self.calls(function, name, chosen)
        return names.comment(function.doc) + lines + [""]

    def calls(self, function, name, chosen):
        type = function.returns
        prepared = f"{name}_prepare({', '.join(['crew'] + self.names_of(chosen))})"
        if isinstance(type, model.Stream):
            item = self.value(type.item)
            return self.head(f"pycrew::stream<{item}>", name, chosen) + [
                "{", f"    return pycrew::stream<{item}>({prepared});", "}"]
        result = self.result(type)
        if type.contains(model.Array) and not isinstance(type, model.Array):
            return []  # views of a result that would be gone
        lines = self.head(result, name, chosen) + [
            "{", f"    return pycrew::stubs::run<{result}>({prepared},",
            f'        "{function.full_name}", "{type.text}");', "}"]
        if not any(p.star for p in chosen):
            lines += self.head(f"std::future<{result}>", f"{name}_async", chosen) + [
                "{", f"    return crew.async<{result}>(" + ", ".join(
                    [f"pycrew::stubs::function(crew, detail::stub_{function.name})"] + self.given(chosen)) + ");", "}"]
        return lines

    def header(self, file):
        guard = "".join(c if c.isalnum() else "_" for c in file.upper())
        about = (f"The functions of {self.module.name}. Written by pycrew stubs from {self.module.file}: edits are lost.\n\n"
                 "What fails throws pycrew::error. _prepare: a call with its arguments, not submitted; its result,\n"
                 "by call.result<T>(), may have views. _async: a future. What has a default in Python may be left out,\n"
                 "all of it together.")
        lines = names.comment(about) + [f"#ifndef {guard}", f"#define {guard}", "", "#include <pycrew-stubs.hpp>", "",
                                        f"namespace {self.space}", "{", ""] + self.structs()
        converts = self.converts()
        if converts:
            lines += [f"}} // namespace {self.space}", ""] + converts + [f"namespace {self.space}", "{", ""]
        lines += ["namespace detail", "{", ""]
        for function in self.module.functions:
            lines += self.stub(function)
        lines += ["", "} // namespace detail", ""]
        for function in self.module.functions:
            lines += self.functions(function)
        return "\n".join(lines + [f"}} // namespace {self.space}", "", "#endif", ""])
