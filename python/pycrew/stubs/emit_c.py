"""A C header and its source: a typed function for each function of a module.

A type has a value's form (in structs, items and results) and a parameter's form, see value() and parameter(). Results
that point to memory have it as long as their call is held."""
from . import adapter, model, names

# C's types for Python's int: how they are read, and their limits.
INTS = {"int64_t": None, "int": ("INT_MIN", "INT_MAX"), "int32_t": ("INT32_MIN", "INT32_MAX"),
        "long": ("LONG_MIN", "LONG_MAX"), "long long": ("LLONG_MIN", "LLONG_MAX")}

_DTYPES = {"bool": "BOOL", "float16": "F16", "float32": "F32", "float64": "F64", "complex64": "C64",
           "complex128": "C128", **{f"{k}int{n}": f"{k.upper() or 'I'}{n}" for k in ("", "u") for n in (8, 16, 32, 64)}}


def dtype(type):
    return "PYCREW_" + _DTYPES[type.dtype]


def owns(type):
    """Whether a value of it points to memory."""
    return any(part in (model.STR, model.BYTES) or isinstance(part, (model.List, model.Dict, model.Array))
               for part in type.all())


class Writer:
    def __init__(self, module, options):
        self.module, self.options = module, options
        self.prefix = options.prefix
        self.added, self.read = {}, {}  # types that are converted, in an order in which they can stand

    # ---- types -------------------------------------------------------------------------------------

    def is_plain_pointer(self, type):
        """Optional[str] and Optional[bytes]: a NULL says None."""
        return isinstance(type, model.Optional) and type.item in (model.STR, model.BYTES)

    def value(self, type):
        """The C type of a value."""
        if self.is_plain_pointer(type):
            return self.value(type.item)
        if type is model.INT:
            return self.options.int
        if isinstance(type, model.Array):
            return "pycrew_array"
        return {model.FLOAT: "double", model.BOOL: "bool", model.BYTES: "pycrew_bytes",
                model.STR: "pycrew_str" if self.options.sized_str else "const char *"
                }.get(type) or self.type_name(type)

    def type_name(self, type):
        """Of a typedef of ours. With _t it cannot be a function's, optional_int say."""
        return self.prefix + type.tag + ("" if isinstance(type, model.Struct) else "_t")

    def declare(self, type, name):
        """A value of that type and name."""
        value = self.value(type)
        return value + name if value.endswith("*") else f"{value} {name}"

    def by_value(self, type):
        return isinstance(type, model.Scalar) or self.is_plain_pointer(type)

    def parameter(self, parameter, name, count):
        """The C parameters for a Python one: scalars and text by value, NULL is None; a list is its items and their
        number; all else is a pointer."""
        type = parameter.type
        if self.by_value(type):
            return [self.declare(type, name)]
        if isinstance(type, model.List):
            item = self.value(type.item)
            star = f"{item}const *" if item.endswith("*") else f"const {item} *"
            return [star + name, f"size_t {count}"]
        if isinstance(type, model.Optional):
            return [f"const {self.value(type.item)} *{name}"]
        return [f"const {self.value(type)} *{name}"]

    def parameters(self, function, chosen):
        """Of the chosen ones: their C parameters, and by name how they are called."""
        taken, declared, called = [], [], {}
        for parameter in chosen:
            name = names.local(parameter.name, taken)
            count = names.local(name + "_count", taken)
            taken += [name, count]
            declared += self.parameter(parameter, name, count)
            called[parameter] = (name, count)
        return declared, called

    def definition(self, type):
        """A type's typedef, or nothing where it needs none."""
        if self.by_value(type) or isinstance(type, (model.Array, model.Nothing, model.Stream)):
            return []
        name, lines, before = self.type_name(type), [], []
        if isinstance(type, model.Struct):
            before = names.comment(type.doc)
            for field, field_type in type.fields:
                lines.append(f"    {self.declare(field_type, names.field(field))};")
        elif isinstance(type, model.Optional):
            lines = ["    bool present; /* false: None */", f"    {self.declare(type.item, 'value')};"]
        elif isinstance(type, model.Tuple):
            lines = [f"    {self.declare(item, f'item{i}')};" for i, item in enumerate(type.items)]
        elif isinstance(type, model.List):
            item = self.value(type.item)
            lines = [f"    {item}const *items;" if item.endswith("*") else f"    const {item} *items;",
                     "    size_t count;"]
        elif isinstance(type, model.Dict):
            before = [f"typedef struct {name}_entry {{", f"    {self.declare(type.key, 'key')};",
                      f"    {self.declare(type.value, 'value')};", f"}} {name}_entry;", ""]
            lines = [f"    const {name}_entry *items;", "    size_t count;"]
        return before + [f"typedef struct {name} {{", *lines, f"}} {name};", ""]

    def types(self):
        """All types that need a definition, those inside others first."""
        found = {}
        for function in self.module.functions:
            for top in [p.type.item if p.star else p.type for p in function.parameters] + [function.returns]:
                found.update((type, None) for type in top.all() if self.definition(type))
        return list(found)

    def definitions(self):
        return [line for type in self.types() for line in self.definition(type)]

    def names(self):
        """All that the header declares, and of what each is."""
        for type in self.types():
            yield self.type_name(type), type.text
        for function in self.module.functions:
            for start, arguments in self.heads(function):
                yield start.split()[-1], function.name

    # ---- adding arguments ----------------------------------------------------------------------------

    def add(self, type, value):
        """An expression that adds a value (an lvalue), and is 0 or a code."""
        if self.is_plain_pointer(type):
            data = value if type.item is model.STR and not self.options.sized_str else value + ".data"
            return f"{data} == NULL ? pycrew_add_none(call) : {self.add(type.item, value)}"
        if type is model.INT:
            return f"pycrew_add_i64(call, {value})"
        if type is model.FLOAT:
            return f"pycrew_add_f64(call, {value})"
        if type is model.BOOL:
            return f"pycrew_add_bool(call, {value})"
        self.added[type] = None
        return f"add_{type.tag}(call, {value if isinstance(type, model.Scalar) else '&' + value})"

    def adder(self, type):
        """The static function add_TAG."""
        declared = self.declare(type, "value") if isinstance(type, model.Scalar) else f"const {self.value(type)} *value"
        lines = [f"static int add_{type.tag}(pycrew_call *call, {declared})", "{"]
        if type is model.STR and not self.options.sized_str:
            lines += ["    size_t size = value == NULL ? 1 : strlen(value); /* of NULL one byte is refused */", "",
                      "    return pycrew_add_str(call, value, size);"]
        elif type in (model.STR, model.BYTES):
            what = "str" if type is model.STR else "bytes"
            lines += [f'    return pycrew_add_{what}(call, value.data == NULL ? "" : value.data, value.size);']
        elif isinstance(type, model.Optional):
            lines += ["    if (!value->present)", "        return pycrew_add_none(call);",
                      f"    return {self.add(type.item, 'value->value')};"]
        elif isinstance(type, model.Array):
            lines += [f"    int rc = pycrew_array_expect(value, {dtype(type)});", "",
                      "    return rc < 0 ? rc : pycrew_add_array(call, value);"]
        elif isinstance(type, model.List):
            lines += self.add_items("PYCREW_TUPLE" if type.is_tuple else "PYCREW_LIST", "value->count",
                                    [self.add(type.item, "value->items[i]")])
        elif isinstance(type, model.Dict):
            lines += self.add_items("PYCREW_DICT", "value->count", [self.add(type.key, "value->items[i].key"),
                                                                    self.add(type.value, "value->items[i].value")])
        else:
            fields = type.fields if isinstance(type, model.Struct) else [
                (f"item{i}", item) for i, item in enumerate(type.items)]
            lines += ["    int rc = pycrew_add_open(call, PYCREW_TUPLE);", ""]
            for field, field_type in fields:
                lines += ["    if (rc == 0)",
                          f"        rc = {self.add(field_type, 'value->' + names.field(field))};"]
            lines += ["    return rc < 0 ? rc : pycrew_add_close(call);"]
        return lines + ["}", ""]

    def add_items(self, kind, count, adds):
        lines = [f"    int rc = pycrew_add_open(call, {kind});", "",
                 f"    for (size_t i = 0; rc == 0 && i < {count}; i++)"]
        if len(adds) == 1:
            lines += [f"        rc = {adds[0]};"]
        else:
            lines[-1] += " {"
            lines += [f"        rc = {adds[0]};", "        if (rc == 0)", f"            rc = {adds[1]};", "    }"]
        return lines + ["    return rc < 0 ? rc : pycrew_add_close(call);"]

    def add_parameter(self, parameter, name, count):
        """Statements; rc is 0 before."""
        type, lines = parameter.type, []
        if parameter.keyword:
            lines += [f'    rc = pycrew_add_name(call, "{parameter.name}");', "    if (rc == 0)"]
        indent = "        " if parameter.keyword else "    "
        if parameter.star:
            return [f"    for (size_t i = 0; rc == 0 && i < {count}; i++)",
                    f"        rc = {self.add(type.item, name + '[i]')};"]
        if self.by_value(type):
            value = self.add(type, name)
        elif isinstance(type, model.List):
            self.added[type] = None
            value = f"add_{type.tag}(call, &(const {self.value(type)}){{{name}, {count}}})"
        elif isinstance(type, model.Optional):
            value = f"{name} == NULL ? pycrew_add_none(call) : {self.add(type.item, f'(*{name})')}"
            value = value.replace("&(*" + name + ")", name).replace("(*" + name + ")", "*" + name)
        else:
            self.added[type] = None
            value = f"add_{type.tag}(call, {name})"
        lines.append(f"{indent}rc = {value};")
        if type not in (model.INT, model.FLOAT, model.BOOL):
            lines += ["    if (rc < 0)", f'        return pycrew_fail_at(rc, "{self.module.name}:'
                                         f'{self.current.name}: {parameter.name}");']
        return lines

    # ---- reading results -----------------------------------------------------------------------------

    def read_value(self, type, value, ret):
        """An expression that reads a value into *ret (a pointer), and is 0 or a code."""
        if type is model.FLOAT:
            return f"pycrew_value_f64({value}, {ret})"
        if type is model.BOOL:
            return f"pycrew_value_bool({value}, {ret})"
        if type is model.INT and self.options.int == "int64_t":
            return f"pycrew_value_i64({value}, {ret})"
        self.read[type] = None
        call = "" if self.reads_alone(type) else "call, "
        return f"read_{type.tag}({call}{value}, {ret})"

    def reads_alone(self, type):
        """Whether reading needs no memory."""
        return not any(isinstance(part, (model.List, model.Dict)) for part in type.all())

    def reader(self, type):
        """The static function read_TAG."""
        call = "" if self.reads_alone(type) else "pycrew_call *call, "
        value = self.value(type)
        ret = f"{value}{'' if value.endswith('*') else ' '}*ret"
        lines = [f"static int read_{type.tag}({call}pycrew_value at, {ret})", "{"]
        if type is model.INT:
            least, most = INTS[self.options.int]
            lines += ["    int64_t wide;", f"    int rc = pycrew_value_int(at, {least}, {most}, &wide);", "",
                      "    if (rc == 0)", f"        *ret = ({value})wide;", "    return rc;"]
        elif type in (model.STR, model.BYTES):
            what = "str" if type is model.STR else "bytes"
            into = "&ret->data, &ret->size" if type is model.BYTES or self.options.sized_str else "ret, NULL"
            lines += [f"    int rc = pycrew_value_expect(at, PYCREW_TYPE_{what.upper()});", "",
                      f"    return rc < 0 ? rc : pycrew_value_{what}(at, {into});"]
        elif self.is_plain_pointer(type):
            none = "NULL" if value.endswith("*") else f"({value}){{NULL, 0}}"
            lines += ["    if (pycrew_value_type(at) == PYCREW_TYPE_NONE) {", f"        *ret = {none};",
                      "        return 0;", "    }", f"    return {self.read_value(type.item, 'at', 'ret')};"]
        elif isinstance(type, model.Optional):
            lines += ["    ret->present = pycrew_value_type(at) != PYCREW_TYPE_NONE;",
                      f"    return ret->present ? {self.read_value(type.item, 'at', '&ret->value')} : 0;"]
        elif isinstance(type, model.Array):
            lines += ["    int rc;", "", "    ret->size = sizeof *ret;", "    rc = pycrew_value_array(at, ret);",
                      f"    return rc < 0 ? rc : pycrew_array_expect(ret, {dtype(type)});"]
        elif isinstance(type, (model.List, model.Dict)):
            lines += self.read_items(type)
        else:
            lines += self.read_fields(type)
        return lines + ["}", ""]

    def read_items(self, type):
        if isinstance(type, model.List):
            kind, item, fields = "PYCREW_LIST", self.value(type.item), [(type.item, "&items[i]")]
            text = "tuple" if type.is_tuple else "list"
        else:
            kind, item, text = "PYCREW_DICT", self.value(type) + "_entry", "dict"
            fields = [(type.key, "&items[i].key"), (type.value, "&items[i].value")]
        pointer = item if item.endswith("*") else item + " "
        lines = [f"    {pointer}*items = NULL;", "    size_t count = SIZE_MAX;",
                 f'    int rc = pycrew_value_items(at, {kind}, "{text}", &count, &at);', "",
                 "    if (rc < 0)", "        return rc;",
                 "    if (count > 0 && (items = pycrew_call_alloc(call, count, sizeof *items)) == NULL)",
                 "        return -ENOMEM;", "    for (size_t i = 0; i < count; i++) {"]
        for number, (field, ret) in enumerate(fields):
            if number > 0:
                lines += ["        at = pycrew_value_next(at);"]
            lines += [f"        rc = {self.read_value(field, 'at', ret)};", "        if (rc < 0)",
                      "            return fail_at_item(rc, i);"]
        return lines + ["        at = pycrew_value_next(at);", "    }", "    ret->items = items;",
                        "    ret->count = count;", "    return 0;"]

    def read_fields(self, type):
        is_struct = isinstance(type, model.Struct)
        fields = type.fields if is_struct else [(f"item{i}", item) for i, item in enumerate(type.items)]
        text = type.text if is_struct else "tuple"
        lines = [f"    size_t count = {len(fields)};",
                 f'    int rc = pycrew_value_items(at, PYCREW_TUPLE, "{text}", &count, &at);', ""]
        for number, (field, field_type) in enumerate(fields):
            where = f".{field}" if is_struct else f"[{number}]"
            lines += ["    if (rc < 0)", "        return rc;"] if number == 0 else [
                "    at = pycrew_value_next(at);"]
            lines += [f"    rc = {self.read_value(field_type, 'at', '&ret->' + names.field(field))};",
                      "    if (rc < 0)", f'        return pycrew_fail_at(rc, "{where}");']
        return lines + ["    return 0;"]

    # ---- functions -----------------------------------------------------------------------------------

    def head(self, function, suffix, before, chosen, after):
        declared, called = self.parameters(function, chosen)
        crew = [] if self.options.crew else ["pycrew_crew *crew"]
        return f"int {self.prefix}{function.name}{suffix}", crew + before + declared + after

    def returned(self, function):
        """The parameters for the result."""
        type = function.returns
        if isinstance(type, model.Stream):
            return ["pycrew_call **ret"]
        if isinstance(type, model.Nothing):
            return []
        return [self.pointer(type, "ret")] + (["pycrew_call **held"] if owns(type) else [])

    def pointer(self, type, name):
        value = self.value(type)
        return f"{value}{'' if value.endswith('*') else ' '}*{name}"

    def variants(self, function):
        """Suffix and parameters: all, and where there are defaults those without."""
        yield "", list(function.parameters)
        if function.has_defaults:
            yield "_defaults", function.required()

    def heads(self, function):
        """All public functions for one of Python's: start, arguments."""
        for suffix, chosen in self.variants(function):
            yield self.head(function, suffix, [], chosen, self.returned(function))
        if not self.options.crew:
            for suffix, chosen in self.variants(function):
                yield self.head(function, "_prepare" + suffix, ["int64_t timeout_ns"], chosen, ["pycrew_call **ret"])
            if not isinstance(function.returns, model.Stream):
                for suffix, chosen in self.variants(function):
                    yield self.head(function, "_submit" + suffix, ["pycrew_queue *queue"], chosen,
                                    ["pycrew_call **ret"])
                yield f"int {self.prefix}{function.name}_get", ["pycrew_call *call"] + self.returned(function)[:1]
        if isinstance(function.returns, model.Stream):
            yield (f"int {self.prefix}{function.name}_next",
                   ["pycrew_call *stream", "int64_t timeout_ns", self.pointer(function.returns.item, "ret")])

    def about(self, function):
        text = function.doc
        defaults = ", ".join(f"{p.name}={p.default}" for p in function.parameters if p.default is not None)
        if defaults:
            text += f"\n\nDefaults: {defaults}"
        return names.comment(text)

    def header(self, file):
        guard = "".join(c if c.isalnum() else "_" for c in file.upper())
        body = self.definitions()
        for function in self.module.functions:
            body += self.about(function)
            for start, arguments in self.heads(function):
                body += names.declaration(start, arguments or ["void"], ";")
            body.append("")
        text = "\n".join(body)
        if "pycrew_" not in text.replace(self.prefix, "") and self.options.crew:
            includes = ["#include <stdbool.h>", "#include <stddef.h>", "#include <stdint.h>"]
        else:
            includes = ["#include <pycrew-stubs.h>"]
        return "\n".join([
            *names.comment(self.about_file(file)), f"#ifndef {guard}", f"#define {guard}", "", *includes, "",
            "#ifdef __cplusplus", 'extern "C" {', "#endif", "", *body,
            "#ifdef __cplusplus", "}", "#endif", "#endif", ""])

    def about_file(self, file):
        rules = f"The functions of {self.module.name}. Written by pycrew stubs from {self.module.file}: edits are lost."
        if self.module.doc:
            rules += "\n\n" + self.module.doc
        rules += "\n\nEach returns 0, or a negative code and leaves *ret as it was; pycrew_last_error() says why."
        streams = any(isinstance(f.returns, model.Stream) for f in self.module.functions)
        if any(owns(f.returns) and not isinstance(f.returns, model.Stream) for f in self.module.functions):
            rules += "\nWhat *ret points to is there until pycrew_release(*held)."
        if not self.options.crew:
            rules += ("\n_prepare: a call with its arguments, for pycrew_submit. _submit: the same, submitted, and announced"
                      "\nin the queue, if there is one. _get: waits for its end, and reads its result, which lives until"
                      "\npycrew_release(call).")
        if streams:
            rules += "\n_next: as pycrew_next; 1: an item, good until the next one. The stream is pycrew_release's."
        if any(f.has_defaults for f in self.module.functions):
            rules += "\n_defaults: what has a default in Python is left out."
        return rules

    # ---- the source ----------------------------------------------------------------------------------

    def stub(self, function):
        lines, name, text = [], function.full_name, "NULL"
        if adapter.needed(function):
            name, source = adapter.source(function)
            text = f"source_{function.name}"
            lines += self.text(text, source)
        return lines + [f'static pycrew_stub stub_{function.name} = PYCREW_STUB_INIT("{name}", {text});', ""]

    def text(self, name, source):
        if len(source.encode()) < 4000:
            literal = names.string(source)
            return [f"static const char {name}[] ="] + [f"    {line}" for line in literal[:-1]] + [
                f"    {literal[-1]};"]
        bytes_ = [str(byte if byte < 128 else byte - 256) for byte in source.encode()] + ["0"]  # ISO C bounds literals
        rows = [", ".join(bytes_[i:i + 20]) for i in range(0, len(bytes_), 20)]
        return [f"static const char {name}[] = {{"] + [f"    {row}," for row in rows] + ["};"]

    def fill(self, function, suffix, chosen):
        declared, called = self.parameters(function, chosen)
        lines = names.declaration(f"static int fill_{function.name}{suffix}", ["pycrew_call *call"] + declared, "")
        lines += ["{"]
        if not chosen:
            return lines + ["    (void)call;", "    return 0;", "}", ""]
        lines += ["    int rc = 0;", ""]
        for number, parameter in enumerate(chosen):
            statements = self.add_parameter(parameter, *called[parameter])
            last = chosen[number - 1].type if number else None
            if last in (model.INT, model.FLOAT, model.BOOL) or (number and chosen[number - 1].star):
                if len(statements) == 1:
                    statements = ["    if (rc == 0)", "    " + statements[0]]
                elif not parameter.star:
                    statements = ["    if (rc < 0)", "        return rc;"] + statements
            lines += statements
        lines = self.tidy(lines)
        return lines + ["    return rc;", "}", ""]

    @staticmethod
    def tidy(lines):
        """int rc = 0, and at once rc = something: in one."""
        at = lines.index("    int rc = 0;")
        if at + 2 < len(lines) and lines[at + 2].startswith("    rc = "):
            lines[at:at + 3] = ["    int" + lines[at + 2][3:], ""]
        if lines[-1] == "    if (rc < 0)":
            raise AssertionError
        return lines

    def prepare(self, function, suffix, chosen):
        declared, called = self.parameters(function, chosen)
        given = [word for p in chosen for word in called[p][:2 if isinstance(p.type, model.List) else 1]]
        lines = names.declaration(f"static int prepare_{function.name}{suffix}",
                                  ["pycrew_crew *crew", "int64_t timeout_ns"] + declared + ["pycrew_call **ret"], "")
        lines += ["{", "    pycrew_call *call;",
                  f"    int rc = pycrew_stub_prepare(crew, &stub_{function.name}, timeout_ns, &call);", "",
                  "    if (rc < 0)", "        return rc;"]
        if isinstance(function.returns, model.Stream):
            lines += ["    rc = pycrew_set_stream(call, 0);", "    if (rc == 0)",
                      f"        rc = fill_{function.name}{suffix}({', '.join(['call'] + given)});"]
        else:
            lines += [f"    rc = fill_{function.name}{suffix}({', '.join(['call'] + given)});"]
        return lines + ["    if (rc < 0)", "        pycrew_release(call);", "    else", "        *ret = call;",
                        "    return rc;", "}", ""]

    def get(self, function):
        """Static get_NAME: waits, and reads."""
        type = function.returns
        result = [] if isinstance(type, model.Nothing) else [self.pointer(type, "ret")]
        lines = names.declaration(f"static int get_{function.name}", ["pycrew_call *call"] + result, "")
        lines += ["{"]
        direct = {model.INT: "i64", model.FLOAT: "f64", model.BOOL: "bool"}.get(type)
        if type is model.INT and self.options.int != "int64_t":
            direct = None
        failed = f'pycrew_fail_result(call, rc, "{function.full_name}", "{type.text}")'
        if isinstance(type, model.Nothing):
            return lines + ["    int rc = pycrew_wait(call, PYCREW_FOREVER);", "", "    if (rc == 0)",
                            "        rc = pycrew_value_expect(pycrew_result_value(call), PYCREW_TYPE_NONE);",
                            "    else", "        return rc;",
                            f"    return rc < 0 ? {failed} : 0;", "}", ""]
        if direct:
            return lines + ["    int rc = pycrew_wait(call, PYCREW_FOREVER);", "", "    if (rc < 0)",
                            "        return rc;", f"    rc = pycrew_result_{direct}(call, ret);",
                            f"    return rc < 0 ? {failed} : 0;", "}", ""]
        if type is model.INT:
            return lines + self.get_int(failed)
        read = self.read_value(type, "pycrew_result_value(call)", "&result")
        return lines + [f"    {self.empty(type)};", "    int rc = pycrew_wait(call, PYCREW_FOREVER);", "",
                        "    if (rc < 0)", "        return rc;", f"    rc = {read};", "    if (rc < 0)",
                        f"        return {failed};", "    *ret = result;", "    return 0;", "}", ""]

    def get_int(self, failed):
        """The rest of a get_NAME for an int of another type than int64_t: the walk through values is for errors only."""
        least, most = INTS[self.options.int]
        lines = ["    int64_t wide = 0;", "    int rc = pycrew_wait(call, PYCREW_FOREVER);", "", "    if (rc < 0)",
                 "        return rc;", "    rc = pycrew_result_i64(call, &wide);"]
        if self.options.int in ("int", "int32_t"):  # the others have as many bits
            lines += [f"    if (rc == 0 && (wide < {least} || wide > {most}))",
                      f"        rc = pycrew_value_int(pycrew_result_value(call), {least}, {most}, &wide);"]
        return lines + ["    if (rc < 0)", f"        return {failed};", f"    *ret = ({self.options.int})wide;",
                        "    return 0;", "}", ""]

    def empty(self, type):
        """A local result. What is not present in it is not read, and copied all the same."""
        zero = {model.FLOAT: "0", model.INT: "0", model.BOOL: "false"}.get(type)
        return f"{self.declare(type, 'result')} = {zero or ('NULL' if self.value(type).endswith('*') else '{0}')}"

    def next(self, function):
        item = function.returns.item
        failed = f'pycrew_fail_result(stream, rc, "{function.full_name}", "{function.returns.text}")'
        read = self.read_value(item, "pycrew_result_value(stream)", "&result").replace("(call, ", "(stream, ")
        lines = names.declaration(f"int {self.prefix}{function.name}_next",
                                  ["pycrew_call *stream", "int64_t timeout_ns", self.pointer(item, "ret")], "")
        return lines + ["{", f"    {self.empty(item)};",
                        "    int rc = pycrew_next(stream, timeout_ns);", "", "    if (rc <= 0)", "        return rc;",
                        f"    rc = {read};", "    if (rc < 0)", f"        return {failed};", "    *ret = result;",
                        "    return 1;", "}", ""]

    def public(self, function):
        lines, type = [], function.returns
        crew = self.options.crew or "crew"
        for suffix, chosen in self.variants(function):
            declared, called = self.parameters(function, chosen)
            given = [word for p in chosen for word in called[p][:2 if isinstance(p.type, model.List) else 1]]
            start, arguments = self.head(function, suffix, [], chosen, self.returned(function))
            prepare = f"prepare_{function.name}{suffix}({', '.join([crew, 'PYCREW_FOREVER'] + given + ['&call'])})"
            lines += names.declaration(start, arguments or ["void"], "")
            lines += ["{", "    pycrew_call *call;", f"    int rc = {prepare};", "", "    if (rc < 0)",
                      "        return rc;", "    rc = pycrew_submit(call);"]
            if not isinstance(type, model.Stream):
                ret = "" if isinstance(type, model.Nothing) else ", ret"
                lines += ["    if (rc == 0)", f"        rc = get_{function.name}(call{ret});"]
            if isinstance(type, model.Stream) or owns(type):
                lines += ["    if (rc < 0)", "        pycrew_release(call);", "    else",
                          f"        *{'ret' if isinstance(type, model.Stream) else 'held'} = call;"]
            else:
                lines += ["    pycrew_release(call);"]
            lines += ["    return rc;", "}", ""]
        return lines + ([] if self.options.crew else self.asynchronous(function))

    def asynchronous(self, function):
        lines = []
        for suffix, chosen in self.variants(function):
            declared, called = self.parameters(function, chosen)
            given = [word for p in chosen for word in called[p][:2 if isinstance(p.type, model.List) else 1]]
            prepare = f"prepare_{function.name}{suffix}"
            start, arguments = self.head(function, "_prepare" + suffix, ["int64_t timeout_ns"], chosen,
                                         ["pycrew_call **ret"])
            lines += names.declaration(start, arguments, "")
            lines += ["{", f"    return {prepare}({', '.join(['crew', 'timeout_ns'] + given + ['ret'])});", "}", ""]
            if isinstance(function.returns, model.Stream):
                continue
            start, arguments = self.head(function, "_submit" + suffix, ["pycrew_queue *queue"], chosen,
                                         ["pycrew_call **ret"])
            lines += names.declaration(start, arguments, "")
            lines += ["{", "    pycrew_call *call;",
                      f"    int rc = {prepare}({', '.join(['crew', 'PYCREW_FOREVER'] + given + ['&call'])});", "",
                      "    return rc < 0 ? rc : submit(call, queue, ret);", "}", ""]
        if not isinstance(function.returns, model.Stream):
            ret = self.returned(function)[:1]
            lines += names.declaration(f"int {self.prefix}{function.name}_get", ["pycrew_call *call"] + ret, "")
            lines += ["{", f"    return get_{function.name}(call{', ret' if ret else ''});", "}", ""]
        return lines

    def body(self, function):
        self.current = function
        lines = [f"/* ---- {function.name} ---- */", ""] + self.stub(function)
        for suffix, chosen in self.variants(function):
            lines += self.fill(function, suffix, chosen) + self.prepare(function, suffix, chosen)
        if isinstance(function.returns, model.Stream):
            lines += self.next(function)
        else:
            lines += self.get(function)
        return lines + self.public(function)

    def converters(self):
        """The static functions, those that others call first. Making one may ask for more."""
        def in_order(asked, make):
            made, lines = {}, []
            while len(made) < len(asked):
                for type in [type for type in asked if type not in made]:
                    made[type] = make(type)

            def visit(type):
                for part in type.parts():
                    visit(part)
                lines.extend(made.pop(type, ()))
            for type in list(asked):
                visit(type)
            return lines
        return in_order(self.added, self.adder) + in_order(self.read, self.reader)

    def source(self, header):
        functions = [line for function in self.module.functions for line in self.body(function)]
        converters = self.converters()
        text = "\n".join(converters + functions)
        lines = [f"/* Written by pycrew stubs from {self.module.file}: edits are lost. */", f'#include "{header}"', ""]
        if "ENOMEM" in text:
            lines += ["#include <errno.h>"]
        if "INT_M" in text or "LONG_M" in text:
            lines += ["#include <limits.h>"]
        if "fail_at_item" in text:
            lines += ["#include <stdio.h>"]
        if "strlen" in text:
            lines += ["#include <string.h>"]
        lines += ["", "#include <pycrew-stubs.h>", ""]
        if self.options.crew:
            lines += [f"extern pycrew_crew *{self.options.crew};", ""]
        if "fail_at_item" in text:
            lines += ["static int fail_at_item(int code, size_t index)", "{", "    char where[32];", "",
                      '    snprintf(where, sizeof where, "[%zu]", index);',
                      "    return pycrew_fail_at(code, where);", "}", ""]
        if "submit(call, queue, ret)" in text:
            lines += ["static int submit(pycrew_call *call, pycrew_queue *queue, pycrew_call **ret)", "{",
                      "    int rc = queue == NULL ? 0 : pycrew_set_queue(call, queue);", "",
                      "    if (rc == 0)", "        rc = pycrew_submit(call);", "    if (rc < 0)",
                      "        pycrew_release(call);", "    else", "        *ret = call;", "    return rc;", "}", ""]
        return "\n".join(lines + converters + functions).rstrip() + "\n"
