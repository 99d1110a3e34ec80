/* What worker/convert.h promises, with a Python in this process. Each test has a process of its
 * own, so each starts its own interpreter. */
#include <Python.h>

#include "tests/harness/tap.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "worker/convert.h"

/* ---- Python ---- */

static PyObject *scope; /* the globals of all Python code here */

static const char prelude[] =
    "import collections, datetime, decimal, enum, fractions, struct, sys, threading\n"
    "class Level(enum.IntEnum):\n"
    "    LOW = 1\n"
    "Point = collections.namedtuple('Point', 'x y')\n"
    "class Text(str): pass\n"
    "class Bytes(bytes): pass\n"
    "class Float(float): pass\n"
    "class Int(int): pass\n"
    "class List(list): pass\n"
    "class Index:\n"
    "    def __init__(self, value): self.value = value\n"
    "    def __index__(self):\n"
    "        if isinstance(self.value, BaseException): raise self.value\n"
    "        return self.value\n"
    "    def __eq__(self, other): return type(other) is Index\n"
    "class Raises:\n"
    "    def __init__(self, error): self.error = error\n"
    "    def __reduce__(self): raise self.error\n"
    "class Interrupt(BaseException): pass\n"
    "class Does:\n" /* something while it is pickled */
    "    def __init__(self, action): self.action = action\n"
    "    def __reduce__(self):\n"
    "        self.action()\n"
    "        return (int, ())\n"
    "class Vanishes(Does):\n" /* and then cannot be pickled, so that its type is asked for */
    "    def __reduce__(self):\n"
    "        self.action()\n"
    "        raise KeyError('gone')\n"
    "class Odd(collections.OrderedDict):\n"
    "    def __iter__(self):\n"
    "        yield from collections.OrderedDict.__iter__(self)\n"
    "        yield from self.more()\n"
    "def odd(more, keys=2):\n"
    "    d = Odd((k, k) for k in range(keys))\n"
    "    d.more = more\n"
    "    return d\n"
    "def raises(error): raise error\n"
    "def vanishing(kind):\n"
    "    d = {'list': [], 'dict': {}, 'key': {}}[kind]\n"
    "    thing = Vanishes(d.clear)\n"
    "    if kind == 'list': d.append(thing)\n"
    "    elif kind == 'dict': d['k'] = thing\n"
    "    else: d[thing] = 1\n"
    "    return d\n"
    "def ordered(*keys, first=None):\n"
    "    d = collections.OrderedDict((k, k) for k in keys)\n"
    "    if first is not None: d.move_to_end(first, last=False)\n"
    "    return d\n"
    "def same(a, b):\n"
    "    if type(a) is not type(b): return False\n"
    "    if type(a) is float: return struct.pack('d', a) == struct.pack('d', b)\n"
    "    if type(a) in (list, tuple):\n" /* no all() or map(): 3.12 counts the C stack apart */
    "        if len(a) != len(b): return False\n"
    "        for x, y in zip(a, b):\n"
    "            if not same(x, y): return False\n"
    "        return True\n"
    "    if type(a) is dict: return same(list(a.items()), list(b.items()))\n"
    "    return bool(a == b)\n"
    "def nest(kind, depth):\n"
    "    value = 1\n"
    "    for i in range(depth):\n"
    "        value = {'list': [value], 'tuple': (value,), 'dict': {'k': value}}[kind]\n"
    "    return value\n"
    "def inside(kind):\n"
    "    value = [] if kind == 'list' else {}\n"
    "    if kind == 'list': value.append((value,))\n"
    "    else: value['self'] = value\n"
    "    return value\n"
    "def changing(value, action):\n" /* value, where a thing inside does action to value */
    "    does = Does(lambda: action(value))\n"
    "    if isinstance(value, list): value.insert(0, does)\n"
    "    else: value['first'] = does; value.update(a=object(), b=object())\n"
    "    return value\n"
    "def replace_keys(d):\n"
    "    d.clear()\n"
    "    for i in range(3): d[i] = Does(lambda: replace_keys(d))\n"
    "def churn(d):\n" /* as many keys as before, but never the end of them */
    "    d.pop(next(iter(d)))\n"
    "    d[object()] = Does(lambda: churn(d))\n"
    "published = []\n"
    "def when_loaded(): return list(published)\n"
    "class Loaded:\n"
    "    def __reduce__(self): return (when_loaded, ())\n";

/* "Type: message" of the exception that is set, which is taken away; "" if none is. */
static const char *exception_text(void)
{
    static char text[1000];
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL)
        return "";
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *message = PyObject_Str(value);
    const char *utf8 = message != NULL ? PyUnicode_AsUTF8(message) : NULL;
    snprintf(text, sizeof text, "%s: %s", ((PyTypeObject *)type)->tp_name, utf8 ? utf8 : "?");
    PyErr_Clear();
    Py_XDECREF(message);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return text;
}

static PyObject *run(const char *source, int kind)
{
    PyObject *value = PyRun_String(source, kind, scope, scope);
    if (value == NULL)
        DIAG("%s: %s", source, exception_text());
    ASSERT(value != NULL);
    return value;
}

static PyObject *eval(const char *expression)
{
    return run(expression, Py_eval_input);
}

static void exec(const char *source)
{
    Py_DECREF(run(source, Py_file_input));
}

static void start(void)
{
    setenv("OPENBLAS_NUM_THREADS", "1", 1); /* numpy's threads would outlive the test */
    Py_InitializeEx(0);
    ASSERT_INT(pc_convert_init(), 0);
    PyObject *module = PyImport_AddModule("__main__");
    ASSERT(module != NULL);
    scope = PyModule_GetDict(module);
    exec(prelude);
}

/* The exception that is set is the one expected, up to the end of expected. */
static void assert_raised(const char *what, const char *expected)
{
    const char *text = exception_text();
    if (strncmp(text, expected, strlen(expected)) != 0)
        DIAG("%s: %s", what, text);
    ASSERT(strncmp(text, expected, strlen(expected)) == 0);
}

/* ---- messages ---- */

static int heap_grow(pc_writer *writer, size_t need)
{
    size_t capacity = pc_align8(need + need / 2);
    uint8_t *data = realloc(writer->data, capacity);
    if (data == NULL)
        return -ENOMEM;
    writer->data = data;
    writer->capacity = capacity;
    return 0;
}

static pc_cursor whole(const pc_writer *writer)
{
    return (pc_cursor){writer->data, writer->data + writer->size};
}

static pc_view only(const pc_writer *writer)
{
    pc_cursor cursor = whole(writer);
    pc_view view;
    ASSERT_INT(pc_value_check(cursor, true), 0);
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT(cursor.at == cursor.end);
    return view;
}

static void encode(pc_writer *writer, const char *expression, bool json)
{
    PyObject *object = eval(expression);
    int r = pc_encode(writer, object, json);
    if (r < 0)
        DIAG("%s: %s", expression, exception_text());
    ASSERT_INT(r, 0);
    ASSERT(PyErr_Occurred() == NULL);
    Py_DECREF(object);
}

/* object as it comes back, and the tag it travelled with. */
static PyObject *through(const char *expression, enum pc_tag *ret_tag)
{
    pc_writer writer = {.grow = heap_grow};
    encode(&writer, expression, false);
    pc_view view = only(&writer);
    if (ret_tag != NULL)
        *ret_tag = view.tag;
    PyObject *object = pc_decode(&view);
    if (object == NULL)
        DIAG("%s: %s", expression, exception_text());
    ASSERT(object != NULL);
    free(writer.data);
    return object;
}

/* expression, sent through, is what expected says, of the same type, to the bit. */
static void assert_becomes(const char *expression, const char *expected, enum pc_tag tag)
{
    enum pc_tag sent;
    PyObject *object = through(expression, &sent), *wanted = eval(expected);
    PyObject *same =
        PyObject_CallFunctionObjArgs(PyDict_GetItemString(scope, "same"), object, wanted, NULL);
    if (same != Py_True || sent != tag)
        DIAG("%s: comes back as %s, tag %d %s", expression, Py_TYPE(object)->tp_name, (int)sent,
             same == NULL ? exception_text() : "");
    ASSERT(same == Py_True);
    ASSERT_INT(sent, tag);
    Py_DECREF(same);
    Py_DECREF(object);
    Py_DECREF(wanted);
}

static void assert_encode_raises(const char *expression, bool json, const char *expected)
{
    pc_writer writer = {.grow = heap_grow};
    ASSERT_INT(pc_write_none(&writer), 0);
    PyObject *object = eval(expression);
    int r = pc_encode(&writer, object, json);
    if (r != -1)
        DIAG("%s: raises nothing", expression);
    ASSERT_INT(r, -1);
    assert_raised(expression, expected);
    ASSERT_INT(writer.size, 8); /* no half value is left behind */
    Py_DECREF(object);
    free(writer.data);
}

/* ---- round trips ---- */

TEST(pythons_own_types_come_back_as_they_were)
{
    static const struct {
        const char *expression;
        enum pc_tag tag;
    } cases[] = {
        {"None", PC_TAG_NONE},
        {"True", PC_TAG_BOOL},
        {"False", PC_TAG_BOOL},
        {"0", PC_TAG_I64},
        {"-1", PC_TAG_I64},
        {"2**30", PC_TAG_I64},
        {"2**63 - 1", PC_TAG_I64},
        {"-2**63", PC_TAG_I64},
        {"2**63", PC_TAG_U64},
        {"2**64 - 1", PC_TAG_U64},
        {"2**64", PC_TAG_BIGINT},
        {"-2**63 - 1", PC_TAG_BIGINT},
        {"2**70000", PC_TAG_BIGINT},
        {"-3**70000", PC_TAG_BIGINT},
        {"0.0", PC_TAG_F64},
        {"-0.0", PC_TAG_F64},
        {"0.1", PC_TAG_F64},
        {"5e-324", PC_TAG_F64},
        {"float('inf')", PC_TAG_F64},
        {"-float('inf')", PC_TAG_F64},
        {"float('nan')", PC_TAG_F64},
        {"''", PC_TAG_STR},
        {"'text'", PC_TAG_STR},
        {"'\\0a\\0'", PC_TAG_STR},
        {"'na\\xefve \\u20ac \\U0001f600'", PC_TAG_STR},
        {"'x' * 100000", PC_TAG_STR},
        {"b''", PC_TAG_BYTES},
        {"b'\\0\\xff\\0'", PC_TAG_BYTES},
        {"bytes(range(256)) * 1000", PC_TAG_BYTES},
        {"[]", PC_TAG_LIST},
        {"()", PC_TAG_TUPLE},
        {"{}", PC_TAG_DICT},
        {"[1, 'two', [3.0, None], (b'4', {})]", PC_TAG_LIST},
        {"(1,)", PC_TAG_TUPLE},
        {"{'a': 1, 2: [], None: {}, (3, 'x'): True, b'': 0.5, 2**80: 1}", PC_TAG_DICT},
        {"{i: str(i) for i in range(10000)}", PC_TAG_DICT},
        {"list(range(-50000, 50000))", PC_TAG_LIST},
    };
    start();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_becomes(cases[i].expression, cases[i].expression, cases[i].tag);
}

TEST(subclasses_become_their_base)
{
    start();
    assert_becomes("Level.LOW", "1", PC_TAG_I64);
    assert_becomes("Int(2**64)", "2**64", PC_TAG_BIGINT);
    assert_becomes("Float(-0.0)", "-0.0", PC_TAG_F64);
    assert_becomes("Text('\\u20ac')", "'\\u20ac'", PC_TAG_STR);
    assert_becomes("Bytes(b'\\0')", "b'\\0'", PC_TAG_BYTES);
    assert_becomes("List([1])", "[1]", PC_TAG_LIST);
    assert_becomes("Point(1, [2])", "(1, [2])", PC_TAG_TUPLE);
    assert_becomes("collections.Counter('aab')", "{'a': 2, 'b': 1}", PC_TAG_DICT);
    assert_becomes("collections.defaultdict(list, k=[1])", "{'k': [1]}", PC_TAG_DICT);
}

TEST(an_ordered_dict_keeps_its_order)
{
    start();
    assert_becomes("ordered(1, 2, 3)", "{1: 1, 2: 2, 3: 3}", PC_TAG_DICT);
    assert_becomes("ordered(1, 2, 3, first=3)", "{3: 3, 1: 1, 2: 2}", PC_TAG_DICT);
    assert_becomes("ordered()", "{}", PC_TAG_DICT);
}

TEST(what_has_an_index_becomes_an_int)
{
    start();
    assert_becomes("Index(7)", "7", PC_TAG_I64);
    assert_becomes("Index(2**100)", "2**100", PC_TAG_BIGINT);
    /* one that refuses, as numpy's and torch's arrays do, has none */
    assert_becomes("Index(TypeError('no'))", "Index(0)", PC_TAG_OBJECT);
    assert_encode_raises("Index(ValueError('broken'))", false, "ValueError: broken");
}

TEST(anything_else_is_pickled_and_comes_back)
{
    static const char *const expressions[] = {
        "{1, 2}",
        "frozenset('ab')",
        "1j",
        "range(3)",
        "bytearray(b'ab')",
        "decimal.Decimal('0.1')",
        "fractions.Fraction(1, 3)",
        "datetime.datetime(2024, 2, 29)",
        "datetime.timezone.utc",
        "collections.deque([1, [2]])",
        "Level",
        "Ellipsis",
        "KeyError('x').args.__class__",
    };
    start();
    for (size_t i = 0; i < sizeof expressions / sizeof *expressions; i++)
        assert_becomes(expressions[i], expressions[i], PC_TAG_OBJECT);
    assert_becomes("[{1}, {'k': 2j}]", "[{1}, {'k': 2j}]", PC_TAG_LIST);
}

TEST(a_bigint_is_written_as_lower_case_hexadecimal)
{
    start();
    pc_writer writer = {.grow = heap_grow};
    encode(&writer, "-0xABCDEF0123456789ABCDEF", false);
    pc_view view = only(&writer);
    ASSERT_INT(view.tag, PC_TAG_BIGINT);
    ASSERT_STR(view.data, "-abcdef0123456789abcdef");
    free(writer.data);
}

/* ---- what cannot be sent ---- */

TEST(what_cannot_be_pickled_is_a_type_error_that_names_it)
{
    start();
    assert_encode_raises("lambda: 1", false, "TypeError: cannot pickle 'function' object: ");
    assert_encode_raises("memoryview(b'')", false,
                         "TypeError: cannot pickle 'memoryview' object: ");
    assert_encode_raises("[(i for i in ())]", false,
                         "TypeError: cannot pickle 'generator' object: ");
    assert_encode_raises("{'k': threading.Lock()}", false,
                         "TypeError: cannot pickle '_thread.lock'");
    assert_encode_raises("Raises(KeyError('why'))", false,
                         "TypeError: cannot pickle 'Raises' object: 'why'");
}

TEST(the_type_error_is_caused_by_the_original)
{
    start();
    exec("original = KeyError('why')");
    pc_writer writer = {.grow = heap_grow};
    PyObject *object = eval("Raises(original)");
    ASSERT_INT(pc_encode(&writer, object, false), -1);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *cause = PyException_GetCause(value), *context = PyException_GetContext(value);
    ASSERT(cause == PyDict_GetItemString(scope, "original"));
    ASSERT(context == cause);
    PyObject *origin = PyException_GetTraceback(cause); /* into the user's __reduce__ */
    ASSERT(origin != NULL);
    free(writer.data);
}

TEST(an_interrupt_while_pickling_stays_what_it_is)
{
    start();
    assert_encode_raises("Raises(Interrupt('now'))", false, "Interrupt: now");
    assert_encode_raises("[Raises(KeyboardInterrupt())]", false, "KeyboardInterrupt");
    assert_encode_raises("Raises(MemoryError())", false, "MemoryError");
}

TEST(a_lone_surrogate_is_a_unicode_encode_error)
{
    start();
    assert_encode_raises("'\\ud800'", false, "UnicodeEncodeError: ");
    assert_encode_raises("[1, {'\\udfff': 1}]", false, "UnicodeEncodeError: ");
    assert_encode_raises("['\\ud800']", true, "UnicodeEncodeError: ");
}

TEST(five_hundred_levels_come_back_and_one_more_is_a_value_error)
{
    static const char *const kinds[] = {"list", "tuple", "dict"};
    static const enum pc_tag tags[] = {PC_TAG_LIST, PC_TAG_TUPLE, PC_TAG_DICT};
    start();
    for (size_t i = 0; i < 3; i++) {
        char deep[100], deeper[100];
        snprintf(deep, sizeof deep, "nest('%s', 500)", kinds[i]);
        snprintf(deeper, sizeof deeper, "nest('%s', 501)", kinds[i]);
        exec("sys.setrecursionlimit(3000)"); /* for same() */
        assert_becomes(deep, deep, tags[i]);
        assert_encode_raises(deeper, false, "ValueError: nested deeper than 500");
    }
}

TEST(a_container_that_holds_itself_is_a_value_error)
{
    start();
    assert_encode_raises("inside('list')", false, "ValueError: nested deeper than 500");
    assert_encode_raises("inside('dict')", false, "ValueError: nested deeper than 500");
}

TEST(a_container_that_changes_while_its_items_are_pickled_is_a_runtime_error)
{
    start();
    static const char list[] = "RuntimeError: list changed while it was being converted";
    static const char dict[] = "RuntimeError: dict changed while it was being converted";
    assert_encode_raises("changing([1, 2], lambda v: v.clear())", false, list);
    assert_encode_raises("changing([1, 2], lambda v: v.append(3))", false, list);
    assert_encode_raises("changing({}, lambda v: v.clear())", false, dict);
    assert_encode_raises("changing({}, lambda v: v.pop('b'))", false, dict);
    assert_encode_raises("changing({}, lambda v: v.update((i, i) for i in range(99)))", false,
                         dict);
    assert_encode_raises("changing({}, churn)", false, dict);
    assert_encode_raises("changing(ordered(), lambda v: v.clear())", false, "RuntimeError: ");
    assert_encode_raises("changing(ordered(), lambda v: v.update(z=1))", false, "RuntimeError: ");
    assert_encode_raises("changing(ordered(), churn)", false, "RuntimeError: ");
}

TEST(a_dict_whose_keys_are_replaced_one_for_one_is_sent_whole)
{
    start();
    PyObject *object =
        through("changing({}, replace_keys)", NULL); /* as Python's own loops: a mix */
    ASSERT_INT(PyDict_Size(object), 3);
    Py_DECREF(object);
}

TEST(an_item_that_is_dropped_while_it_is_pickled_is_still_there_to_be_named)
{
    start();
    static const char expected[] = "TypeError: cannot pickle 'Vanishes' object: 'gone'";
    assert_encode_raises("vanishing('list')", false, expected);
    assert_encode_raises("vanishing('dict')", false, expected);
    assert_encode_raises("vanishing('key')", false, expected);
}

TEST(an_ordered_dict_with_an_order_of_its_own_never_lies_about_its_count)
{
    start();
    static const char expected[] = "RuntimeError: OrderedDict changed while it was being converted";
    assert_becomes("odd(lambda: [])", "{0: 0, 1: 1}", PC_TAG_DICT);
    assert_encode_raises("odd(lambda: [0])", false, expected);
    assert_encode_raises("odd(lambda: iter(int, 1), keys=0)", false, expected);
    assert_encode_raises("odd(lambda: raises(KeyError('iter')))", false, "KeyError: 'iter'");
    assert_encode_raises("odd(lambda: [[]])", false, expected);
    exec("class Fewer(Odd):\n"
         "    def __iter__(self): return iter([0])\n"
         "class Missing(Odd):\n"
         "    def __iter__(self): return iter([0, 7])\n"
         "class Unhashable(Odd):\n"
         "    def __iter__(self): return iter([0, []])\n"
         "for c in Fewer, Missing, Unhashable: globals()[c.__name__] = c({0: 0, 1: 1})\n");
    assert_encode_raises("Fewer", false, expected);
    assert_encode_raises("Missing", false, expected);
    assert_encode_raises("Unhashable", false, "TypeError: unhashable");
}

TEST(an_item_that_is_replaced_while_it_is_pickled_is_sent_as_it_was)
{
    start();
    exec("def swap(v): v[0] = v[1] = 9");
    assert_becomes("changing([1, 2], swap)", "[0, 9, 2]", PC_TAG_LIST);
}

TEST(the_writers_own_error_is_passed_on_without_an_exception)
{
    start();
    static const char expression[] = "[1, 2.5, None, 'text', {'k': (b'b', 2**99, {1})}, 2**63]";
    pc_writer measure = {.grow = heap_grow};
    encode(&measure, expression, false);
    PyObject *object = eval(expression);
    for (size_t capacity = 0; capacity < measure.size; capacity += 8) {
        pc_writer writer = {.data = malloc(measure.size), .capacity = capacity};
        ASSERT_INT(pc_encode(&writer, object, false), -E2BIG);
        ASSERT(PyErr_Occurred() == NULL);
        ASSERT_INT(writer.size, 0);
        free(writer.data);
    }
    ASSERT_INT(pc_encode(&(pc_writer){0}, object, true),
               -1); /* the set is no JSON: that comes first */
    assert_raised("a set as JSON", "TypeError: ");
    Py_DECREF(object);
    ASSERT_INT(pc_encode(&(pc_writer){0}, Py_None, true), -E2BIG);
    ASSERT(PyErr_Occurred() == NULL);
    free(measure.data);
}

/* ---- JSON ---- */

static PyObject *decode_data(enum pc_tag tag, const char *text, size_t size)
{
    pc_writer writer = {.grow = heap_grow};
    ASSERT_INT(pc_write_data(&writer, tag, text, size), 0);
    pc_cursor cursor = whole(&writer);
    pc_view view;
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    PyObject *object = pc_decode(&view);
    free(writer.data);
    return object;
}

TEST(json_comes_in_as_python_reads_it)
{
    start();
    static const char text[] = "{\"a\": [1, 2.5, true, null, \"\xe2\x82\xac\\ud83d\\ude00\", NaN]}";
    PyObject *object = decode_data(PC_TAG_JSON, text, strlen(text));
    ASSERT(object != NULL);
    PyDict_SetItemString(scope, "got", object);
    PyObject *same = eval("same(got, {'a': [1, 2.5, True, None, '\\u20ac\\U0001f600', "
                          "float('nan')]})");
    ASSERT(same == Py_True);
    Py_DECREF(object);
    Py_DECREF(same);
}

TEST(json_goes_out_as_python_writes_it_and_in_utf8)
{
    start();
    pc_writer writer = {.grow = heap_grow};
    encode(&writer, "{'a': (1, 2.5, True, None, '\\u20ac', float('nan')), 3: Point(1, 2)}", true);
    pc_view view = only(&writer);
    ASSERT_INT(view.tag, PC_TAG_JSON);
    ASSERT_STR(view.data, "{\"a\": [1, 2.5, true, null, \"\xe2\x82\xac\", NaN], \"3\": [1, 2]}");
    free(writer.data);
}

TEST(json_that_does_not_parse_is_an_error_with_its_place)
{
    start();
    ASSERT(decode_data(PC_TAG_JSON, "[1,\n oops]", 10) == NULL);
    assert_raised("oops", "JSONDecodeError: Expecting value: line 2 column 2 (char 5)");
    ASSERT(decode_data(PC_TAG_JSON, "", 0) == NULL);
    assert_raised("nothing", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)");
    ASSERT(decode_data(PC_TAG_JSON, "1 2", 3) == NULL);
    assert_raised("two", "JSONDecodeError: Extra data: line 1 column 3 (char 2)");
    ASSERT(decode_data(PC_TAG_JSON, "\"\xff\"", 3) == NULL);
    assert_raised("not UTF-8", "UnicodeDecodeError: ");
}

TEST(a_json_error_is_told_from_others)
{
    start();
    ASSERT(decode_data(PC_TAG_JSON, "oops", 4) == NULL);
    ASSERT(pc_convert_is_argument_error());
    PyErr_Clear();
    ASSERT(decode_data(PC_TAG_BIGINT, "oops", 4) == NULL);
    ASSERT(!pc_convert_is_argument_error());
    PyErr_SetString(PyExc_ValueError, "its base, but not one");
    ASSERT(!pc_convert_is_argument_error());
    PyErr_Clear();
    ASSERT(decode_data(PC_TAG_OBJECT, "cjson\nloads\n(S'oops'\ntR.", 24) == NULL);
    ASSERT(!pc_convert_is_argument_error());
    PyErr_Clear();
}

TEST(json_that_python_does_not_take_is_a_json_error)
{
    char text[20000];

    start();
    memset(text, '[', sizeof text);
    ASSERT(decode_data(PC_TAG_JSON, text, sizeof text) == NULL);
    ASSERT(PyErr_ExceptionMatches(PyExc_RecursionError) && pc_convert_is_argument_error());
    PyErr_Clear();
    memset(text, '7', sizeof text);
    ASSERT(decode_data(PC_TAG_JSON, text, sizeof text) == NULL);
    ASSERT(PyErr_ExceptionMatches(PyExc_ValueError) && pc_convert_is_argument_error());
    PyErr_Clear();
}

TEST(what_json_cannot_say_is_pythons_own_error)
{
    start();
    assert_encode_raises("[{1}]", true, "TypeError: Object of type set is not JSON serializable");
    assert_encode_raises("inside('list')", true, "ValueError: Circular reference detected");
}

/* ---- malformed values ---- */

static uint64_t header(enum pc_tag tag, uint64_t length)
{
    return tag | length << 8;
}

static PyObject *decode_words(const uint64_t *words, size_t count)
{
    pc_cursor cursor = {(const uint8_t *)words, (const uint8_t *)(words + count)};
    pc_view view;
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    return pc_decode(&view);
}

#define ASSERT_MALFORMED(...)                                                                      \
    do {                                                                                           \
        const uint64_t words[] = {__VA_ARGS__};                                                    \
        ASSERT(decode_words(words, sizeof words / sizeof *words) == NULL);                         \
        assert_raised(#__VA_ARGS__, "SystemError: malformed value in shared memory");              \
    } while (0)

TEST(a_malformed_value_is_a_system_error)
{
    start();
    const uint64_t none = PC_TAG_NONE;
    for (enum pc_tag tag = PC_TAG_LIST; tag <= PC_TAG_TUPLE; tag++) {
        ASSERT_MALFORMED(header(tag, 1), 16, none, none);    /* more than it counts */
        ASSERT_MALFORMED(header(tag, 2), 16, PC_TAG_I64, 7); /* fewer */
        ASSERT_MALFORMED(header(tag, 2), 16, none, 0);       /* one that is none */
        ASSERT_MALFORMED(header(tag, 1), 16, header(PC_TAG_NAME, 1), 'n');
    }
    ASSERT_MALFORMED(header(PC_TAG_DICT, 1), 24, none, none, none);
    ASSERT_MALFORMED(header(PC_TAG_DICT, 1), 16, PC_TAG_I64, 7);
    ASSERT_MALFORMED(header(PC_TAG_NAME, 1), 'n');
    ASSERT_MALFORMED(header(PC_TAG_BIGINT, 1), 'x');
    ASSERT_MALFORMED(header(PC_TAG_BIGINT, 0), 0);
    ASSERT_MALFORMED(header(PC_TAG_BIGINT, 1), 0xff);
}

TEST(text_that_is_not_utf8_is_a_unicode_decode_error)
{
    start();
    ASSERT(decode_data(PC_TAG_STR, "ab\xff", 3) == NULL);
    assert_raised("a byte",
                  "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 2");
    ASSERT(decode_data(PC_TAG_STR, "\xed\xa0\x80", 3) == NULL);
    assert_raised("a surrogate", "UnicodeDecodeError: ");
}

TEST(a_key_that_has_no_hash_is_a_type_error)
{
    start();
    const uint64_t words[] = {header(PC_TAG_DICT, 1), 24, header(PC_TAG_LIST, 0), 0, PC_TAG_NONE};
    ASSERT(decode_words(words, 5) == NULL);
    assert_raised("a list as key", "TypeError: ");
}

TEST(a_value_nested_too_deeply_is_a_system_error)
{
    start();
    pc_writer writer = {.grow = heap_grow};
    size_t offsets[501];
    for (int i = 0; i < 501; i++)
        ASSERT_INT(pc_write_open(&writer, PC_TAG_LIST, &offsets[i]), 0);
    for (int i = 500; i >= 0; i--)
        pc_write_close(&writer, offsets[i], i < 500);
    pc_cursor cursor = whole(&writer);
    pc_view view;
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT(pc_decode(&view) == NULL);
    assert_raised("501 levels", "SystemError: malformed value in shared memory");
    cursor = view.contents; /* without the outermost it is right */
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    PyObject *object = pc_decode(&view);
    ASSERT(object != NULL);
    Py_DECREF(object);
    free(writer.data);
}

static bool has_object(pc_cursor cursor, int depth)
{
    pc_view view;
    while (pc_value_next(&cursor, &view) > 0)
        if (view.tag == PC_TAG_OBJECT || (view.tag >= PC_TAG_LIST && depth < PC_VALUE_DEPTH_MAX &&
                                          has_object(view.contents, depth + 1)))
            return true;
    return false;
}

/* A page whose end is the end of what can be read. */
static uint8_t *page_end(void)
{
    enum { PAGE = 4096 };
    uint8_t *map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT(map != MAP_FAILED);
    ASSERT_INT(mprotect(map + PAGE, PAGE, PROT_NONE), 0);
    return map + PAGE;
}

TEST(random_bytes_make_an_object_or_an_exception_and_are_never_read_past)
{
    start();
    pc_writer writer = {.grow = heap_grow};
    encode(&writer, "[1, 2.5, None, 'text', {'k': (b'bytes', 2**99, -2**70)}, 2**63, '\\u20ac']",
           false);
    encode(&writer, "{1: [2, (3, [4, {5: 6}])], 'seven': [[], (), {}]}", false);
    ASSERT_INT(pc_write_data(&writer, PC_TAG_NAME, "name", 4), 0);
    encode(&writer, "['json', 1]", true);
    uint8_t *end = page_end();
    srandom(1);
    for (int round = 0; round < 30000; round++) {
        size_t size = (size_t)random() % 4 ? writer.size : (size_t)random() % writer.size / 8 * 8;
        memcpy(end - size, writer.data, size);
        for (int flips = 1 + (int)random() % 4; size > 0 && flips > 0; flips--)
            end[-1 - (ssize_t)((size_t)random() % size)] ^= (uint8_t)(1 << random() % 8);
        pc_cursor cursor = {end - size, end};
        if (has_object(cursor, 0)) /* random pickles are another's test */
            continue;
        pc_arguments arguments;
        int r = pc_decode_arguments(cursor, NULL, NULL, &arguments);
        ASSERT_INT(r, PyErr_Occurred() ? -1 : 0);
        PyErr_Clear();
        pc_arguments_clear(&arguments);
    }
    free(writer.data);
}

/* ---- arguments ---- */

static void write_name(pc_writer *writer, const char *name)
{
    ASSERT_INT(pc_write_data(writer, PC_TAG_NAME, name, strlen(name)), 0);
}

/* What function gives when it is called with the message, as the loop calls it. */
static PyObject *call(const char *function, const pc_writer *writer)
{
    pc_arguments arguments;
    PyObject *callee = eval(function), *value = NULL;
    if (pc_decode_arguments(whole(writer), NULL, NULL, &arguments) == 0) {
        ASSERT(PyErr_Occurred() == NULL);
        value = PyObject_Vectorcall(callee, arguments.items,
                                    arguments.positional | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                    arguments.names);
    }
    pc_arguments_clear(&arguments);
    pc_arguments_clear(&arguments); /* once more does nothing */
    Py_DECREF(callee);
    return value;
}

static void assert_call(const char *function, const pc_writer *writer, const char *expected)
{
    PyObject *value = call(function, writer), *text = value != NULL ? PyObject_Repr(value) : NULL;
    ASSERT_STR(text != NULL ? PyUnicode_AsUTF8(text) : exception_text(), expected);
    Py_XDECREF(value);
    Py_XDECREF(text);
}

static const char show[] = "lambda *a, **k: (a, k)";

TEST(arguments_arrive_in_order_and_under_their_names)
{
    start();
    pc_writer writer = {.grow = heap_grow};
    assert_call(show, &writer, "((), {})");
    encode(&writer, "1", false);
    encode(&writer, "['two']", false);
    assert_call(show, &writer, "((1, ['two']), {})");
    write_name(&writer, "b");
    encode(&writer, "3", false);
    write_name(&writer, "\xc3\xa9");
    encode(&writer, "None", false);
    assert_call(show, &writer, "((1, ['two']), {'b': 3, '\xc3\xa9': None})");
    assert_call("lambda x, *y, b, **k: (x, y, b, k)", &writer,
                "(1, (['two'],), 3, {'\xc3\xa9': None})");
    free(writer.data);
}

TEST(any_number_of_arguments_arrives)
{
    start();
    static const int counts[] = {7, 8, 9, 15, 16, 17, 32, 33, 1000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int named = 0; named < 2; named++) {
            pc_writer writer = {.grow = heap_grow};
            for (int k = 0; k < counts[i]; k++) {
                char name[20];
                snprintf(name, sizeof name, "n%d", k);
                if (named)
                    write_name(&writer, name);
                ASSERT_INT(pc_write_i64(&writer, k), 0);
            }
            char expected[100];
            snprintf(expected, sizeof expected, "(%d, True)", counts[i]);
            assert_call(named ? "lambda **k: (len(k), [*k.values()] == [*range(len(k))] and "
                                "[*k] == ['n%d' % i for i in range(len(k))])"
                              : "lambda *a: (len(a), [*a] == [*range(len(a))])",
                        &writer, expected);
            free(writer.data);
        }
}

TEST(the_item_before_the_first_is_free_for_the_callee)
{
    start();
    /* A bound method puts self there. */
    exec("class Bound:\n    def show(self, *a, **k): return (a, k)");
    for (int count = 0; count < 20; count++) {
        pc_writer writer = {.grow = heap_grow};
        for (int k = 0; k < count; k++)
            ASSERT_INT(pc_write_i64(&writer, k), 0);
        PyObject *value = call("Bound().show", &writer);
        ASSERT(value != NULL);
        ASSERT_INT(PyTuple_GET_SIZE(PyTuple_GET_ITEM(value, 0)), count);
        Py_DECREF(value);
        free(writer.data);
    }
}

static PyObject *names_of(const pc_writer *writer)
{
    pc_arguments arguments;
    ASSERT_INT(pc_decode_arguments(whole(writer), NULL, NULL, &arguments), 0);
    PyObject *names = arguments.names;
    Py_XINCREF(names);
    pc_arguments_clear(&arguments);
    return names;
}

TEST(names_are_kept_from_call_to_call_and_never_mistaken)
{
    start();
    static const char *const calls[][2] = {
        {"axis"}, {"axes"}, {"axi"}, {"axis"}, {"axis", "more"}, {"axis"}, {"axis", "most"}, {"a"},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        pc_writer writer = {.grow = heap_grow};
        int count = calls[i][1] != NULL ? 2 : 1;
        for (int k = 0; k < count; k++) {
            write_name(&writer, calls[i][k]);
            ASSERT_INT(pc_write_i64(&writer, k), 0);
        }
        PyObject *names = names_of(&writer), *again = names_of(&writer);
        ASSERT(names == again);
        ASSERT_INT(PyTuple_GET_SIZE(names), count);
        for (int k = 0; k < count; k++)
            ASSERT_STR(PyUnicode_AsUTF8(PyTuple_GET_ITEM(names, k)), calls[i][k]);
        Py_DECREF(names);
        Py_DECREF(again);
        free(writer.data);
    }
    pc_writer none = {.grow = heap_grow};
    ASSERT_INT(pc_write_none(&none), 0);
    ASSERT(names_of(&none) == NULL);
    free(none.data);
}

TEST(names_are_interned)
{
    start();
    pc_writer writer = {.grow = heap_grow};
    write_name(&writer, "some_keyword");
    ASSERT_INT(pc_write_none(&writer), 0);
    PyObject *names = names_of(&writer), *interned = PyUnicode_InternFromString("some_keyword");
    ASSERT(PyTuple_GET_ITEM(names, 0) == interned);
    Py_DECREF(interned);
    Py_DECREF(names);
    free(writer.data);
}

TEST(a_keyword_that_comes_twice_is_a_type_error)
{
    start();
    for (int i = 0; i < 2; i++) { /* also when the name alone has been kept */
        pc_writer writer = {.grow = heap_grow};
        write_name(&writer, "k");
        ASSERT_INT(pc_write_i64(&writer, 1), 0);
        assert_call(show, &writer, "((), {'k': 1})");
        write_name(&writer, "k");
        ASSERT_INT(pc_write_i64(&writer, 2), 0);
        assert_call(show, &writer, "TypeError: got multiple values for keyword argument 'k'");
        free(writer.data);
    }
}

TEST(malformed_arguments_are_a_system_error)
{
    start();
    const uint64_t name = header(PC_TAG_NAME, 1), n = 'n', none = PC_TAG_NONE;
    const uint64_t messages[][6] = {
        {none, name, n},                /* no value behind the name */
        {none, name, n, name, 'm'},     /* a name instead of it */
        {none, name, n, none, none},    /* a value without a name */
        {none, name, n, none, name, n}, /* the last one without */
        {none, 0},
        {none, name, n, 0},
        {none, name, n, none, 0},
        {none, name},
        {name, n, none, none, none}, /* two without */
    };
    static const size_t sizes[] = {3, 5, 5, 6, 2, 4, 5, 2, 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const uint8_t *start_of = (const uint8_t *)messages[i];
        pc_arguments arguments;
        pc_cursor message = {start_of, start_of + 8 * sizes[i]};
        ASSERT_INT(pc_decode_arguments(message, NULL, NULL, &arguments), -1);
        assert_raised("a malformed message", "SystemError: malformed value in shared memory");
        pc_arguments_clear(&arguments);
    }
}

TEST(a_name_that_is_not_utf8_is_a_unicode_decode_error)
{
    start();
    pc_writer writer = {.grow = heap_grow};
    write_name(&writer, "\xff");
    ASSERT_INT(pc_write_none(&writer), 0);
    ASSERT(call(show, &writer) == NULL);
    assert_raised("the name", "UnicodeDecodeError: ");
    free(writer.data);
}

static void publish(void *data)
{
    ++*(int *)data;
    exec("published.append(1)");
}

TEST(running_is_published_once_before_the_first_thing_that_can_run_user_code)
{
    static const struct {
        const char *values;
        int published;
    } cases[] = {
        {"[1, 'two', [3, {4: 5.0}], b'', 2**99]", 0},
        {"[Loaded()]", 1},
        {"[1, [{'k': (Loaded(),)}]]", 1},
        {"[Loaded(), [Loaded(), Loaded()]]", 1},
    };
    start();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int named = 0; named < 2; named++) {
            exec("published.clear()");
            pc_writer writer = {.grow = heap_grow};
            if (named)
                write_name(&writer, "n");
            encode(&writer, cases[i].values, false);
            int published = 0;
            pc_arguments arguments;
            ASSERT_INT(pc_decode_arguments(whole(&writer), publish, &published, &arguments), 0);
            ASSERT_INT(published, cases[i].published);
            PyObject *text = PyObject_Repr(arguments.items[0]); /* what the loaded have seen */
            ASSERT(published == 0 || strstr(PyUnicode_AsUTF8(text), "[1]") != NULL);
            ASSERT(published == 0 || strstr(PyUnicode_AsUTF8(text), "[]") == NULL);
            Py_DECREF(text);
            pc_arguments_clear(&arguments);
            free(writer.data);
        }
}

/* ---- numpy ---- */

TEST(numpys_scalars_and_0d_arrays_become_what_they_hold)
{
    start();
    PyObject *numpy = PyImport_ImportModule("numpy");
    if (numpy == NULL)
        SKIP("there is no numpy");
    PyDict_SetItemString(scope, "np", numpy);
    assert_becomes("np.float64(0.1)", "0.1", PC_TAG_F64);
    assert_becomes("np.float32(0.5)", "0.5", PC_TAG_F64);
    assert_becomes("np.int8(-3)", "-3", PC_TAG_I64);
    assert_becomes("np.uint64(2**64 - 1)", "2**64 - 1", PC_TAG_U64);
    assert_becomes("np.bool_(True)", "True", PC_TAG_BOOL);
    assert_becomes("np.str_('\\u20ac')", "'\\u20ac'", PC_TAG_STR);
    assert_becomes("np.bytes_(b'b')", "b'b'", PC_TAG_BYTES);
    assert_becomes("np.complex128(1j)", "1j", PC_TAG_OBJECT);
    assert_becomes("np.array(7, 'i2')", "7", PC_TAG_I64);
    assert_becomes("np.array(None)", "None", PC_TAG_NONE);
    assert_becomes("[np.array([1.5, 2])[0], {np.int32(1): np.array(2.0)}]", "[1.5, {1: 2.0}]",
                   PC_TAG_LIST);
    Py_DECREF(numpy);
}

TEST(numpys_other_things_are_pickled)
{
    start();
    PyObject *numpy = PyImport_ImportModule("numpy");
    if (numpy == NULL)
        SKIP("there is no numpy");
    PyDict_SetItemString(scope, "np", numpy);
    exec("_same = same\n"
         "def same(a, b):\n"
         "    if not isinstance(a, np.ndarray): return _same(a, b)\n"
         "    return type(a) is type(b) and a.dtype == b.dtype and repr(a) == repr(b)\n");
    static const char *const expressions[] = {
        "np.longdouble(1)",   "np.arange(3)",         "np.arange(1)",
        "np.zeros((0, 2))",   "np.ma.masked_all(())", "np.ma.array(1, mask=True)",
        "np.array(['a', 1])", "np.dtype('f4')",
    };
    for (size_t i = 0; i < sizeof expressions / sizeof *expressions; i++)
        assert_becomes(expressions[i], expressions[i], PC_TAG_OBJECT);
    exec("ring = np.array(None); ring[()] = ring"); /* it holds itself: pickle can say that */
    PyObject *ring = through("ring", NULL);
    Py_DECREF(ring);
    Py_DECREF(numpy);
}

/* The same without numpy: what is looked for by name is enough. */
static const char stand_in[] =
    "import types\n"
    "class generic:\n"
    "    def __init__(self, value): self.value = value\n"
    "    def __eq__(self, other): return type(self) is type(other)\n"
    "    def item(self):\n"
    "        if isinstance(self.value, BaseException): raise self.value\n"
    "        return self.value\n"
    "class ndarray(generic):\n"
    "    def __init__(self, value, ndim=0): self.value, self.ndim = value, ndim\n"
    "class masked(ndarray):\n"
    "    def __index__(self): return 7\n"
    "generic_, generic, ndarray_ = generic, type('generic', (generic,), {}), ndarray\n"
    "sys.modules['numpy'] = numpy = types.ModuleType('numpy')\n";

TEST(numpy_is_noticed_when_it_comes_later)
{
    start();
    assert_becomes("{1}", "{1}", PC_TAG_OBJECT); /* looks, and there is none */
    exec(stand_in);
    assert_becomes("generic(7)", "generic(0)", PC_TAG_OBJECT);
    PyObject *module = PyDict_GetItemString(scope, "numpy");
    Py_ssize_t references = Py_REFCNT(module);
    exec("numpy.generic = generic"); /* half imported, this half or that */
    assert_becomes("generic(7)", "generic(0)", PC_TAG_OBJECT);
    exec("del numpy.generic; numpy.ndarray = ndarray");
    assert_becomes("generic(7)", "generic(0)", PC_TAG_OBJECT);
    ASSERT_INT(Py_REFCNT(module), references);
    exec("numpy.generic = 'no type'");
    assert_becomes("generic(7)", "generic(0)", PC_TAG_OBJECT);
    exec("numpy.generic = generic");
    assert_becomes("generic(7)", "7", PC_TAG_I64);
    assert_becomes("ndarray(7.5)", "7.5", PC_TAG_F64);
    assert_becomes("ndarray(7, ndim=1)", "ndarray(0)", PC_TAG_OBJECT);
    assert_becomes("masked(7)", "masked(0)", PC_TAG_OBJECT);
    exec("del sys.modules['numpy']"); /* the types are known now */
    assert_becomes("generic(7)", "7", PC_TAG_I64);
}

TEST(an_item_that_is_numpys_again_is_not_followed)
{
    start();
    exec(stand_in);
    exec("numpy.ndarray, numpy.generic = ndarray, generic\n"
         "ring = ndarray(None); ring.value = ring");
    assert_becomes("generic(generic(1))", "generic(0)", PC_TAG_OBJECT);
    assert_becomes("ring", "ring", PC_TAG_OBJECT);
    assert_encode_raises("generic(ValueError('no item'))", false, "ValueError: no item");
    exec("deep = ndarray(None); deep.value = [deep]");
    assert_encode_raises("deep", false, "ValueError: nested deeper than 500");
}

TEST(a_module_that_is_none_is_no_numpy)
{
    start();
    exec("sys.modules['numpy'] = None");
    assert_becomes("{1}", "{1}", PC_TAG_OBJECT);
}

/* ---- nothing leaks ---- */

/* Each with its encoding as JSON too: what goes well, and what fails at each stage. */
static const char *const everything[] = {
    "[1, 10**6, 2**63, 2**99, 2.5, None, 'text', '\\u20ac' * 3, b'bytes', (1, 2), {'k': [10**9]}]",
    "{1, 2}",
    "Index(int('1000000000'))",
    "generic(int('1000000000'))",
    "generic(generic(1))",
    "ndarray(7.5, ndim=int('1000000'))",
    "ordered(1000, 2000)",
    "[10**9, lambda: 1]",
    "{10**9: Raises(KeyError('why'))}",
    "[10**9, '\\ud800']",
    "inside('list')",
    "changing([10**9], lambda v: v.clear())",
    "changing({}, churn)",
    "changing(ordered(), lambda v: v.clear())",
    "Index(TypeError('no'))",
    "Index(ValueError('no'))",
};

enum { EVERYTHING = sizeof everything / sizeof *everything };

static PyObject *compiled[EVERYTHING];

static void compile_everything(void)
{
    exec(stand_in);
    exec("numpy.ndarray, numpy.generic = ndarray, generic");
    for (size_t i = 0; i < EVERYTHING; i++) {
        compiled[i] = Py_CompileString(everything[i], "everything", Py_eval_input);
        ASSERT(compiled[i] != NULL);
    }
}

static void decode_and_forget(const pc_writer *writer)
{
    pc_arguments arguments;
    (void)pc_decode_arguments(whole(writer), NULL, NULL, &arguments);
    PyErr_Clear();
    pc_arguments_clear(&arguments);
}

static void exercise(pc_writer *writer, PyObject *object)
{
    for (int json = 0; json < 2; json++) {
        writer->size = 0;
        (void)pc_encode(writer, object, json);
        PyErr_Clear();
        decode_and_forget(writer);
        size_t size = writer->size;
        (void)pc_write_data(writer, PC_TAG_NAME, "one", 3);
        (void)pc_write_i64(writer, 1000000);
        (void)pc_write_data(writer, PC_TAG_NAME, size % 16 ? "one" : "two", 3);
        decode_and_forget(writer); /* a name without a value */
        (void)pc_write_i64(writer, 2000000);
        decode_and_forget(writer); /* two different, or one twice */
        (void)pc_write_none(writer);
        decode_and_forget(writer); /* a value without a name */

        writer->size = 0; /* many, and a name again, so that the names are others */
        for (int i = 0; i < 40; i++)
            (void)pc_write_i64(writer, 1000000 + i);
        (void)pc_write_data(writer, PC_TAG_NAME, json ? "this" : "that", 4);
        (void)pc_write_f64(writer, 0.5);
        decode_and_forget(writer);
    }
}

/* Containers that end too early or too late, or have an item that is none. */
static void exercise_malformed(void)
{
    const uint64_t none = PC_TAG_NONE, number = PC_TAG_I64;
    for (unsigned tag = PC_TAG_LIST; tag <= PC_TAG_DICT; tag++)
        for (uint64_t count = 1; count <= 3; count++) {
            uint64_t words[] = {header(tag, count), 56, number, 1000000, none, none, none, 0, none};
            words[7] = count < 3 ? PC_TAG_NONE : 0;
            pc_cursor cursor = {(uint8_t *)words, (uint8_t *)(words + 9)};
            pc_arguments arguments;
            ASSERT_INT(pc_decode_arguments(cursor, NULL, NULL, &arguments), -1);
            PyErr_Clear();
            pc_arguments_clear(&arguments);
        }
}

static void exercise_everything(pc_writer *writer)
{
    exercise_malformed();
    for (size_t i = 0; i < EVERYTHING; i++) {
        PyObject *object = PyEval_EvalCode(compiled[i], scope, scope);
        ASSERT(object != NULL);
        exercise(writer, object);
        Py_DECREF(object);
    }
}

static long allocated_blocks(void)
{
    while (PyGC_Collect() > 0)
        ;
    PyObject *blocks = eval("sys.getallocatedblocks()");
    long count = PyLong_AsLong(blocks);
    Py_DECREF(blocks);
    return count;
}

TEST(nothing_is_leaked_by_what_goes_well_or_fails)
{
    start();
    compile_everything();
    pc_writer writer = {.grow = heap_grow};
    enum { ROUNDS = 3000 };
    for (int i = 0; i < ROUNDS / 10; i++)
        exercise_everything(&writer);
    long before = allocated_blocks();
    for (int i = 0; i < ROUNDS; i++)
        exercise_everything(&writer);
    long leaked = allocated_blocks() - before;
    DIAG("%ld blocks more after %d rounds", leaked, ROUNDS);
    ASSERT(leaked < ROUNDS / 2); /* some hundreds go to Python's caches; a leak is one a round */
    free(writer.data);
}

TEST(references_to_what_is_sent_are_given_back)
{
    start();
    static const char *const expressions[] = {
        "[thing]",
        "(thing,)",
        "{'k': thing}",
        "{thing: 1}",
        "[thing, '\\ud800']",
        "collections.OrderedDict(k=thing)",
        "collections.OrderedDict({thing: 1})",
    };
    for (size_t i = 0; i < sizeof expressions / sizeof *expressions; i++) {
        PyObject *thing = eval("Float(1000.5)");
        PyDict_SetItemString(scope, "thing", thing);
        PyObject *object = eval(expressions[i]);
        Py_ssize_t references = Py_REFCNT(thing), of_object = Py_REFCNT(object);
        pc_writer writer = {.grow = heap_grow};
        (void)pc_encode(&writer, object, false);
        PyErr_Clear();
        ASSERT_INT(Py_REFCNT(thing), references);
        ASSERT_INT(Py_REFCNT(object), of_object);
        Py_DECREF(object);
        Py_DECREF(thing);
        free(writer.data);
    }
}

TEST(references_to_an_exceptions_type_are_given_back)
{
    start();
    exec("class Oops(Exception): pass");
    PyObject *type = PyDict_GetItemString(scope, "Oops"), *object = eval("Raises(Oops('x'))");
    pc_writer writer = {.grow = heap_grow};
    Py_ssize_t references = 0;
    for (int i = 0; i < 3; i++) {
        ASSERT_INT(pc_encode(&writer, object, false), -1);
        PyErr_Clear();
        PyGC_Collect();
        if (i == 0)
            references = Py_REFCNT(type);
    }
    ASSERT_INT(Py_REFCNT(type), references);
    Py_DECREF(object);
    free(writer.data);
}

TEST(references_to_names_are_given_back)
{
    start();
    PyObject *name = PyUnicode_InternFromString("a_name_of_this_test");
    Py_ssize_t references = Py_REFCNT(name);
    for (int i = 0; i < 3; i++) {
        pc_writer writer = {.grow = heap_grow};
        write_name(&writer, i % 2 ? "another" : "a_name_of_this_test");
        ASSERT_INT(pc_write_none(&writer), 0);
        if (i == 2)
            write_name(&writer, "a_name_of_this_test"); /* without a value: an error */
        decode_and_forget(&writer);
        free(writer.data);
    }
    ASSERT_INT(Py_REFCNT(name), references);
    Py_DECREF(name);
}

static long resident_pages(void)
{
    long total, resident;
    FILE *file = fopen("/proc/self/statm", "re");
    ASSERT(file != NULL);
    ASSERT_INT(fscanf(file, "%ld %ld", &total, &resident), 2);
    fclose(file);
    return resident;
}

TEST(memory_stays_flat_however_many_large_values_pass)
{
    static const char *const expressions[] = {"'x' * 2**20", "b'x' * 2**20", "2**2**22",
                                              "bytearray(2**20)", "['x' * 2**20, lambda: 1]"};
    start();
    pc_writer writer = {.grow = heap_grow};
    long before = 0;
    for (int round = 0; round < 60; round++) {
        if (round == 10)
            before = resident_pages();
        for (size_t i = 0; i < sizeof expressions / sizeof *expressions; i++) {
            PyObject *object = eval(expressions[i]);
            writer.size = 0;
            (void)pc_encode(&writer, object, false);
            PyErr_Clear();
            decode_and_forget(&writer);
            Py_DECREF(object);
        }
    }
    long grown = (resident_pages() - before) * sysconf(_SC_PAGESIZE);
    DIAG("%ld KiB more after 50 rounds of 5 MiB", grown / 1024);
    ASSERT(grown < 10 << 20);
    free(writer.data);
}

/* ---- no memory ---- */

static struct {
    PyMemAllocatorEx original;
    long until; /* so many more succeed, then one fails; below 0: all succeed */
} allocator;

static bool fails(void)
{
    return allocator.until >= 0 && allocator.until-- == 0;
}

static void *failing_malloc(void *context, size_t size)
{
    (void)context;
    return fails() ? NULL : allocator.original.malloc(allocator.original.ctx, size);
}

static void *failing_calloc(void *context, size_t count, size_t size)
{
    (void)context;
    return fails() ? NULL : allocator.original.calloc(allocator.original.ctx, count, size);
}

static void *failing_realloc(void *context, void *block, size_t size)
{
    (void)context;
    return fails() ? NULL : allocator.original.realloc(allocator.original.ctx, block, size);
}

static void passing_free(void *context, void *block)
{
    (void)context;
    allocator.original.free(allocator.original.ctx, block);
}

static void watch_allocations(PyMemAllocatorDomain domain)
{
    PyMem_GetAllocator(domain, &allocator.original);
    allocator.until = -1;
    PyMemAllocatorEx failing = {NULL, failing_malloc, failing_calloc, failing_realloc,
                                passing_free};
    PyMem_SetAllocator(domain, &failing);
}

/* How many allocations it takes until nothing fails any more. */
static long fail_each_allocation(pc_writer *writer, PyObject *object)
{
    for (long n = 0;; n++) {
        writer->size = 0;
        allocator.until = n;
        int r = pc_encode(writer, object, false);
        ASSERT_INT(r, PyErr_Occurred() ? -1 : 0);
        PyErr_Clear();
        pc_arguments arguments;
        if (r == 0) {
            (void)pc_write_data(writer, PC_TAG_NAME, n % 2 ? "odd" : "even", n % 2 ? 3 : 4);
            for (int i = 0; i < 10; i++) {
                (void)pc_write_i64(writer, 1000000);
                (void)pc_write_data(writer, PC_TAG_NAME, &"0123456789"[i], 1);
            }
            (void)pc_write_none(writer);
            r = pc_decode_arguments(whole(writer), NULL, NULL, &arguments);
            ASSERT_INT(r, PyErr_Occurred() ? -1 : 0);
            PyErr_Clear();
            pc_arguments_clear(&arguments);
        }
        bool done = allocator.until >= 0;
        allocator.until = -1;
        if (done) {
            ASSERT_INT(r, 0);
            return n;
        }
    }
}

TEST(an_allocation_that_fails_is_an_exception_and_not_a_crash)
{
    static const PyMemAllocatorDomain domains[] = {PYMEM_DOMAIN_OBJ, PYMEM_DOMAIN_MEM};
    start();
    compile_everything();
    pc_writer writer = {.grow = heap_grow};
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < 2; k++) {
            PyObject *object = i > 0 ? PyEval_EvalCode(compiled[i], scope, scope)
                                     : eval("[list(range(1000, 1020)), 2**99, 'text', b'bytes',"
                                            "{'k': (10**9, {1000.5: '\\u20ac'})}]");
            ASSERT(object != NULL);
            exercise(&writer, object);
            watch_allocations(domains[k]);
            long n = fail_each_allocation(&writer, object);
            PyMem_SetAllocator(domains[k], &allocator.original);
            DIAG("value %zu, domain %zu: %ld allocations", i, k, n);
            ASSERT(i > 0 || k > 0 || n > 20);
            Py_DECREF(object);
        }
    free(writer.data);
}

TAP_MAIN
