/* convert: values to Python objects and back; convert.h says which become which. */
#include "worker/convert.h"

#include <assert.h>
#include <string.h>

#include "worker/array.h"
#include "worker/object.h"

/* Looked up once: an import or an attribute costs more than most conversions. */
static struct {
    PyObject *pickle_loads, *pickle_dumps, *protocol;
    PyObject *json_decode, *json_encode;
    bool json_failed;                    /* the last decoding, in a JSON text */
    bool array_failed;                   /* the same, in an array */
    PyObject *numpy, *generic, *ndarray; /* the name; the two types once somebody imported numpy */
    PyObject *names;                     /* the keyword names of the last call that had some */
} tools;

static PyObject *attribute(const char *module, const char *name)
{
    PyObject *found = PyImport_ImportModule(module);
    if (found == NULL)
        return NULL;
    PyObject *value = PyObject_GetAttrString(found, name);
    Py_DECREF(found);
    return value;
}

/* What json has no text for: bytes become base64; arrays, memoryviews and numpy's numbers the list or
 * number that they say they are. */
static PyObject *json_default(PyObject *self, PyObject *object)
{
    (void)self;
    if (!PyBytes_Check(object) && !PyByteArray_Check(object)) {
        PyObject *to_list = PyObject_GetAttrString(object, "tolist");
        PyObject *list = to_list != NULL ? PyObject_CallNoArgs(to_list) : NULL;
        Py_XDECREF(to_list);
        if (to_list == NULL)
            PyErr_Format(PyExc_TypeError, "Object of type %s is not JSON serializable",
                         Py_TYPE(object)->tp_name);
        return list;
    }
    PyObject *encode = attribute("base64", "standard_b64encode");
    PyObject *code = encode != NULL ? PyObject_CallFunctionObjArgs(encode, object, NULL) : NULL;
    PyObject *text = code != NULL ? PyUnicode_FromEncodedObject(code, "ascii", "strict") : NULL;
    Py_XDECREF(encode);
    Py_XDECREF(code);
    return text;
}

static PyMethodDef json_default_method = {"default", json_default, METH_O, NULL};

/* The bound method of a coder made once: json.loads and json.dumps look for the same one in each
 * call, and json.dumps with ensure_ascii=False even makes one. */
static PyObject *json_method(const char *class, const char *method, PyObject *keywords)
{
    PyObject *type = attribute("json", class), *none = PyTuple_New(0), *bound = NULL;
    if (type != NULL && none != NULL) {
        PyObject *coder = PyObject_Call(type, none, keywords);
        if (coder != NULL)
            bound = PyObject_GetAttrString(coder, method);
        Py_XDECREF(coder);
    }
    Py_XDECREF(type);
    Py_XDECREF(none);
    return bound;
}

int pc_convert_init(void)
{
    if (tools.json_encode != NULL)
        return 0;
    PyObject *keywords = Py_BuildValue("{s:O,s:N}", "ensure_ascii", Py_False, "default",
                                       PyCFunction_New(&json_default_method, NULL));
    if (keywords == NULL)
        return -1;
    Py_XSETREF(tools.pickle_loads, attribute("pickle", "loads"));
    Py_XSETREF(tools.pickle_dumps, tools.pickle_loads ? attribute("pickle", "dumps") : NULL);
    Py_XSETREF(tools.protocol, tools.pickle_dumps ? PyLong_FromLong(5) : NULL);
    Py_XSETREF(tools.numpy, tools.protocol ? PyUnicode_InternFromString("numpy") : NULL);
    Py_XSETREF(tools.json_decode, tools.numpy ? json_method("JSONDecoder", "decode", NULL) : NULL);
    Py_XSETREF(tools.json_encode,
               tools.json_decode ? json_method("JSONEncoder", "encode", keywords) : NULL);
    Py_DECREF(keywords);
    return tools.json_encode != NULL ? 0 : -1;
}

static bool is_json_error(void)
{
    return tools.json_failed && (PyErr_ExceptionMatches(PyExc_ValueError) ||
                                 PyErr_ExceptionMatches(PyExc_RecursionError));
}

bool pc_convert_is_argument_error(void)
{
    return (tools.array_failed && (PyErr_ExceptionMatches(PyExc_TypeError) ||
                                   PyErr_ExceptionMatches(PyExc_ValueError) ||
                                   PyErr_ExceptionMatches(PyExc_SyntaxError))) ||
           is_json_error();
}

/* ---- values to Python ---- */

typedef struct pc_decoder {
    void (*before_user_code)(void *); /* NULL once it was called */
    void *data;
} pc_decoder;

static PyObject *malformed(void)
{
    PyErr_SetString(PyExc_SystemError, "malformed value in shared memory");
    return NULL;
}

/* By way of a str, which is a copy: PyLong_FromString would read on to a NUL that another process
 * may have overwritten. Base 16 is linear, and free of Python's limit on decimal digits. */
static PyObject *decode_bigint(const pc_view *view)
{
    PyObject *text = PyUnicode_DecodeLatin1(view->data, (Py_ssize_t)view->length, NULL);
    if (text == NULL)
        return NULL;
    PyObject *number = PyLong_FromUnicodeObject(text, 16);
    Py_DECREF(text);
    if (number == NULL && PyErr_ExceptionMatches(PyExc_ValueError))
        return malformed();
    return number;
}

/* The pickle is copied first: an unpickler can keep what it reads from, and the memory soon belongs
 * to another call. */
static PyObject *decode_object(pc_decoder *decoder, const pc_view *view)
{
    if (decoder->before_user_code != NULL) {
        decoder->before_user_code(decoder->data);
        decoder->before_user_code = NULL;
    }
    PyObject *pickle = PyBytes_FromStringAndSize(view->data, (Py_ssize_t)view->length);
    if (pickle == NULL)
        return NULL;
    PyObject *object = PyObject_CallFunctionObjArgs(tools.pickle_loads, pickle, NULL);
    Py_DECREF(pickle);
    return object;
}

static PyObject *decode_array(pc_decoder *decoder, const pc_view *view)
{
    if (decoder->before_user_code != NULL && pc_array_may_import()) {
        decoder->before_user_code(decoder->data);
        decoder->before_user_code = NULL;
    }
    PyObject *array = pc_array_decode(view);
    tools.array_failed = array == NULL;
    return array;
}

static PyObject *decode_json(const pc_view *view)
{
    PyObject *text = PyUnicode_DecodeUTF8(view->data, (Py_ssize_t)view->length, NULL);
    if (text == NULL)
        return NULL;
    PyObject *object = PyObject_CallFunctionObjArgs(tools.json_decode, text, NULL);
    Py_DECREF(text);
    tools.json_failed = object == NULL;
    return object;
}

static PyObject *decode(pc_decoder *decoder, const pc_view *view, int depth);

static PyObject *decode_next(pc_decoder *decoder, pc_cursor *cursor, int depth)
{
    pc_view view;
    if (pc_value_next(cursor, &view) <= 0)
        return malformed();
    return decode(decoder, &view, depth);
}

/* container, unless a part of it could not be made, or the message holds more than it counted. */
static PyObject *finished(PyObject *container, bool complete, const pc_cursor *cursor)
{
    if (complete && cursor->at == cursor->end)
        return container;
    Py_DECREF(container);
    return complete ? malformed() : NULL;
}

static PyObject *decode_list(pc_decoder *decoder, const pc_view *view, int depth)
{
    pc_cursor cursor = view->contents;
    Py_ssize_t count = (Py_ssize_t)view->length, i;
    PyObject *list = PyList_New(count);
    if (list == NULL)
        return NULL;
    for (i = 0; i < count; i++) {
        PyObject *item = decode_next(decoder, &cursor, depth);
        if (item == NULL)
            break;
        PyList_SET_ITEM(list, i, item);
    }
    return finished(list, i == count, &cursor);
}

static PyObject *decode_tuple(pc_decoder *decoder, const pc_view *view, int depth)
{
    pc_cursor cursor = view->contents;
    Py_ssize_t count = (Py_ssize_t)view->length, i;
    PyObject *tuple = PyTuple_New(count);
    if (tuple == NULL)
        return NULL;
    for (i = 0; i < count; i++) {
        PyObject *item = decode_next(decoder, &cursor, depth);
        if (item == NULL)
            break;
        PyTuple_SET_ITEM(tuple, i, item);
    }
    return finished(tuple, i == count, &cursor);
}

static int decode_pair(pc_decoder *decoder, pc_cursor *cursor, int depth, PyObject *dict)
{
    PyObject *key = decode_next(decoder, cursor, depth);
    PyObject *value = key != NULL ? decode_next(decoder, cursor, depth) : NULL;
    int r = value != NULL ? PyDict_SetItem(dict, key, value) : -1;
    Py_XDECREF(key);
    Py_XDECREF(value);
    return r;
}

static PyObject *decode_dict(pc_decoder *decoder, const pc_view *view, int depth)
{
    pc_cursor cursor = view->contents;
    uint64_t i;
    PyObject *dict = PyDict_New();
    if (dict == NULL)
        return NULL;
    for (i = 0; i < view->length; i++)
        if (decode_pair(decoder, &cursor, depth, dict) < 0)
            break;
    return finished(dict, i == view->length, &cursor);
}

/* depth: how many containers are around the value. */
static PyObject *decode(pc_decoder *decoder, const pc_view *view, int depth)
{
    if (view->tag >= PC_TAG_LIST && depth == PC_VALUE_DEPTH_MAX)
        return malformed();
    switch (view->tag) {
    case PC_TAG_I64:
        return PyLong_FromLongLong(view->i64);
    case PC_TAG_F64:
        return PyFloat_FromDouble(view->f64);
    case PC_TAG_STR:
        return PyUnicode_DecodeUTF8(view->data, (Py_ssize_t)view->length, NULL);
    case PC_TAG_BYTES:
        return PyBytes_FromStringAndSize(view->data, (Py_ssize_t)view->length);
    case PC_TAG_NONE:
        Py_RETURN_NONE;
    case PC_TAG_BOOL:
        return PyBool_FromLong(view->boolean);
    case PC_TAG_U64:
        return PyLong_FromUnsignedLongLong(view->u64);
    case PC_TAG_BIGINT:
        return decode_bigint(view);
    case PC_TAG_LIST:
        return decode_list(decoder, view, depth + 1);
    case PC_TAG_TUPLE:
        return decode_tuple(decoder, view, depth + 1);
    case PC_TAG_DICT:
        return decode_dict(decoder, view, depth + 1);
    case PC_TAG_JSON:
        return decode_json(view);
    case PC_TAG_OBJECT:
        return decode_object(decoder, view);
    case PC_TAG_ARRAY:
        return decode_array(decoder, view);
    default: /* a NAME, where none may stand */
        return malformed();
    }
}

PyObject *pc_decode(const pc_view *view)
{
    pc_decoder decoder = {0};
    tools.json_failed = tools.array_failed = false;
    return decode(&decoder, view, 0);
}

/* ---- the arguments of a call ---- */

enum { SMALL = sizeof((pc_arguments *)0)->small / sizeof(PyObject *) - 1 };

static int arguments_grow(pc_arguments *arguments)
{
    size_t count = arguments->count;
    PyObject **block = PyMem_Malloc((2 * count + 1) * sizeof *block);
    if (block == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(block + 1, arguments->items, count * sizeof *block);
    if (arguments->items != arguments->small + 1)
        PyMem_Free(arguments->items - 1);
    arguments->items = block + 1;
    return 0;
}

static int arguments_take(pc_arguments *arguments, pc_decoder *decoder, const pc_view *view)
{
    size_t count = arguments->count;
    /* Room is for SMALL, and doubles each time count comes to the end of it. */
    if (count >= SMALL && (count & (count - 1)) == 0 && arguments_grow(arguments) < 0)
        return -1;
    PyObject *item = decode(decoder, view, 0);
    if (item == NULL)
        return -1;
    arguments->items[arguments->count++] = item;
    return 0;
}

/* A NAME and its value: 1, 0 at the end, below 0 where something else stands. */
static int next_keyword(pc_cursor *cursor, pc_view *name, pc_view *value)
{
    int r = pc_value_next(cursor, name);
    if (r <= 0)
        return r;
    if (name->tag != PC_TAG_NAME || pc_value_next(cursor, value) <= 0)
        return -EBADMSG;
    return 1;
}

static bool is_text(PyObject *object, const pc_view *view)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(object, &size);
    if (text == NULL) { /* no memory: so it is made again, and may say so there */
        PyErr_Clear();
        return false;
    }
    return (uint64_t)size == view->length && memcmp(text, view->data, (size_t)size) == 0;
}

static bool names_match(PyObject *names, pc_cursor cursor)
{
    Py_ssize_t i = 0;
    pc_view name, value;
    while (next_keyword(&cursor, &name, &value) > 0) {
        if (i == PyTuple_GET_SIZE(names) || !is_text(PyTuple_GET_ITEM(names, i), &name))
            return false;
        i++;
    }
    return i == PyTuple_GET_SIZE(names);
}

/* Python itself lets the last of two equal keywords win where the function takes **keywords: the
 * compiler has refused them before it comes to that. So here is where they are refused. */
static int add_name(PyObject *seen, const pc_view *view)
{
    PyObject *name = PyUnicode_DecodeUTF8(view->data, (Py_ssize_t)view->length, NULL);
    if (name == NULL)
        return -1;
    PyUnicode_InternInPlace(&name); /* a callee compares names by address first */
    int r = PyDict_Contains(seen, name);
    if (r == 0)
        r = PyDict_SetItem(seen, name, Py_None);
    else if (r > 0)
        PyErr_Format(PyExc_TypeError, "got multiple values for keyword argument '%U'", name);
    Py_DECREF(name);
    return r == 0 ? 0 : -1;
}

static PyObject *make_names(pc_cursor cursor)
{
    PyObject *seen = PyDict_New(), *names = NULL;
    if (seen == NULL)
        return NULL;
    pc_view name, value;
    int r, added = 0;
    while (added == 0 && (r = next_keyword(&cursor, &name, &value)) > 0)
        added = add_name(seen, &name);
    if (added == 0)
        names = r == 0 ? PySequence_Tuple(seen) : malformed();
    Py_DECREF(seen);
    return names;
}

/* Call after call has the same keywords, so the last tuple is kept. */
static PyObject *decode_names(pc_cursor cursor)
{
    if (tools.names == NULL || !names_match(tools.names, cursor)) {
        PyObject *names = make_names(cursor);
        if (names == NULL)
            return NULL;
        Py_XSETREF(tools.names, names);
    }
    Py_INCREF(tools.names);
    return tools.names;
}

static int decode_keywords(pc_decoder *decoder, pc_cursor cursor, pc_arguments *ret)
{
    ret->names = decode_names(cursor);
    if (ret->names == NULL)
        return -1;
    pc_view name, value;
    int r;
    while ((r = next_keyword(&cursor, &name, &value)) > 0)
        if (arguments_take(ret, decoder, &value) < 0)
            return -1;
    /* Were there fewer values than names, because the memory has changed since, the callee would
     * read past the items. */
    if (r < 0 || ret->count - ret->positional != (size_t)PyTuple_GET_SIZE(ret->names)) {
        malformed();
        return -1;
    }
    return 0;
}

int pc_decode_arguments(pc_cursor message, void (*before_user_code)(void *), void *data,
                        pc_arguments *ret)
{
    pc_decoder decoder = {.before_user_code = before_user_code, .data = data};
    ret->items = ret->small + 1;
    ret->positional = ret->count = 0;
    ret->names = NULL;
    tools.json_failed = tools.array_failed = false;
    for (;;) {
        const uint8_t *here = message.at; /* not the whole cursor: a 16-byte load behind the 8-byte
                                             store of the last turn would stall */
        pc_view view;
        int r = pc_value_next(&message, &view);
        if (r < 0)
            malformed();
        if (r <= 0)
            return r < 0 ? -1 : 0;
        if (view.tag == PC_TAG_I64 && ret->count < SMALL) { /* the most frequent, spared two calls */
            if ((ret->items[ret->count] = PyLong_FromLongLong(view.i64)) == NULL)
                return -1;
            ret->positional = ++ret->count;
            continue;
        }
        if (view.tag == PC_TAG_NAME)
            return decode_keywords(&decoder, (pc_cursor){here, message.end}, ret);
        if (arguments_take(ret, &decoder, &view) < 0)
            return -1;
        ret->positional = ret->count;
    }
}

static PyObject *decode_number(unsigned tag, uint64_t word)
{
    double number;
    switch (tag) {
    case PC_TAG_I64:
        return PyLong_FromLongLong((int64_t)word);
    case PC_TAG_U64:
        return PyLong_FromUnsignedLongLong(word);
    case PC_TAG_F64:
        memcpy(&number, &word, sizeof number);
        return PyFloat_FromDouble(number);
    case PC_TAG_BOOL:
        return PyBool_FromLong(word != 0);
    default:
        return malformed();
    }
}

static_assert((int)PC_RECORD_MAX <= (int)SMALL, "a record's numbers find place in `small`");

int pc_decode_record(const uint64_t *words, uint64_t shape, pc_arguments *ret)
{
    unsigned length = pc_record_length(shape);
    ret->items = ret->small + 1;
    ret->positional = ret->count = 0;
    ret->names = NULL;
    if (length > PC_RECORD_MAX) {
        malformed();
        return -1;
    }
    for (unsigned i = 0; i < length; i++) {
        PyObject *item = decode_number(pc_record_tag(shape, i), words[i]);
        if (item == NULL)
            return -1;
        ret->items[i] = item;
        ret->positional = ++ret->count;
    }
    return 0;
}

void pc_arguments_clear(pc_arguments *arguments)
{
    for (size_t i = 0; i < arguments->count; i++)
        Py_DECREF(arguments->items[i]);
    arguments->count = 0;
    Py_CLEAR(arguments->names);
    if (arguments->items != arguments->small + 1)
        PyMem_Free(arguments->items - 1);
    arguments->items = arguments->small + 1;
}

/* ---- Python to values ---- */

/* The exception that is set, taken away. */
static PyObject *exception_take(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

/* Sets it again; the reference goes with it. */
static void exception_raise(PyObject *value)
{
#if PY_VERSION_HEX >= 0x030c0000
    PyErr_SetRaisedException(value);
#else
    PyObject *type = (PyObject *)Py_TYPE(value);
    Py_INCREF(type);
    PyErr_Restore(type, value, PyException_GetTraceback(value));
#endif
}

/* Makes the exception of a failed pickling a TypeError that names the object, caused by it. What
 * is not about pickling stays as it is: an interrupt (a BaseException), or no memory. */
static void explain_pickling(PyObject *object)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError))
        return;
    PyObject *cause = exception_take();
    PyErr_Format(PyExc_TypeError, "cannot pickle '%.200s' object: %S", Py_TYPE(object)->tp_name,
                 cause);
    PyObject *error = exception_take();
    Py_INCREF(cause);
    PyException_SetContext(error, cause);
    PyException_SetCause(error, cause);
    exception_raise(error);
}

static int encode_pickled(pc_writer *writer, PyObject *object)
{
    if (pc_object_refuse_generator(object))
        return -1;
    PyObject *pickle =
        PyObject_CallFunctionObjArgs(tools.pickle_dumps, object, tools.protocol, NULL);
    if (pickle == NULL) {
        explain_pickling(object);
        return -1;
    }
    char *data;
    Py_ssize_t size;
    int r = PyBytes_AsStringAndSize(pickle, &data, &size);
    if (r == 0)
        r = pc_write_data(writer, PC_TAG_OBJECT, data, (size_t)size);
    Py_DECREF(pickle);
    return r;
}

static int encode_text(pc_writer *writer, enum pc_tag tag, PyObject *object)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(object, &size);
    return text != NULL ? pc_write_data(writer, tag, text, (size_t)size) : -1;
}

static int encode_bytes(pc_writer *writer, PyObject *object)
{
    return pc_write_data(writer, PC_TAG_BYTES, PyBytes_AS_STRING(object),
                         (size_t)PyBytes_GET_SIZE(object));
}

/* text is what hex() gives: "0x1f" or "-0x1f". */
static int write_hexadecimal(pc_writer *writer, PyObject *text)
{
    Py_ssize_t size;
    const char *from = PyUnicode_AsUTF8AndSize(text, &size);
    if (from == NULL)
        return -1;
    bool negative = from[0] == '-';
    size_t digits = (size_t)size - 2 - negative;
    void *space;
    int r = pc_write_space(writer, PC_TAG_BIGINT, negative + digits, &space);
    if (r < 0)
        return r;
    char *to = space;
    if (negative)
        *to++ = '-';
    memcpy(to, from + negative + 2, digits);
    return 0;
}

static int encode_bigint(pc_writer *writer, PyObject *object)
{
    PyObject *text = PyNumber_ToBase(object, 16);
    if (text == NULL)
        return -1;
    int r = write_hexadecimal(writer, text);
    Py_DECREF(text);
    return r;
}

static int encode_int(pc_writer *writer, PyObject *object)
{
    int overflow;
    long long small = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow == 0)
        return pc_write_i64(writer, small);
    if (overflow > 0) {
        unsigned long long large = PyLong_AsUnsignedLongLong(object);
        if (!PyErr_Occurred())
            return pc_write_u64(writer, large);
        PyErr_Clear();
    }
    return encode_bigint(writer, object);
}

static int encode(pc_writer *writer, PyObject *object, int depth);

/* Pickling an item runs user code, which may change the container and drop the item. So the
 * item is held, and if there are not as many items as were counted, that is an error, as it is in
 * Python's own loops. */
static int encode_held(pc_writer *writer, PyObject *object, int depth)
{
    Py_INCREF(object);
    int r = encode(writer, object, depth);
    Py_DECREF(object);
    return r;
}

static int changed(const char *what)
{
    PyErr_Format(PyExc_RuntimeError, "%s changed while it was being converted", what);
    return -1;
}

static int encode_list_items(pc_writer *writer, PyObject *list, Py_ssize_t count, int depth)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        int r = encode_held(writer, PyList_GET_ITEM(list, i), depth);
        if (r < 0)
            return r;
        if (PyList_GET_SIZE(list) != count)
            return changed("list");
    }
    return 0;
}

static int encode_tuple_items(pc_writer *writer, PyObject *tuple, Py_ssize_t count, int depth)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        int r = encode(writer, PyTuple_GET_ITEM(tuple, i), depth);
        if (r < 0)
            return r;
    }
    return 0;
}

static int encode_pair(pc_writer *writer, PyObject *key, PyObject *value, int depth)
{
    Py_INCREF(value); /* before user code has a chance to drop it */
    int r = encode_held(writer, key, depth);
    if (r == 0)
        r = encode(writer, value, depth);
    Py_DECREF(value);
    return r;
}

static int encode_dict_items(pc_writer *writer, PyObject *dict, Py_ssize_t count, int depth)
{
    Py_ssize_t seen = 0, position = 0;
    PyObject *key, *value;
    while (PyDict_Next(dict, &position, &key, &value)) {
        if (seen++ == count) /* and who knows how many more */
            return changed("dict");
        int r = encode_pair(writer, key, value, depth);
        if (r < 0)
            return r;
    }
    return seen == count ? 0 : changed("dict");
}

static int encode_ordered_pair(pc_writer *writer, PyObject *dict, PyObject *key, int depth)
{
    PyObject *value = PyDict_GetItemWithError(dict, key);
    if (value == NULL)
        return PyErr_Occurred() ? -1 : changed("OrderedDict");
    return encode_pair(writer, key, value, depth);
}

/* An OrderedDict's order (move_to_end) is not that of the dict it is made of. */
static int encode_ordered_items(pc_writer *writer, PyObject *dict, Py_ssize_t count, int depth)
{
    PyObject *keys = PyObject_GetIter(dict), *key;
    if (keys == NULL)
        return -1;
    Py_ssize_t seen = 0;
    int r = 0;
    while (r == 0 && (key = PyIter_Next(keys)) != NULL) {
        r = seen++ < count ? encode_ordered_pair(writer, dict, key, depth) : changed("OrderedDict");
        Py_DECREF(key);
    }
    Py_DECREF(keys);
    if (r < 0 || PyErr_Occurred())
        return r < 0 ? r : -1;
    return seen == count ? 0 : changed("OrderedDict");
}

/* Writes exactly count items (or pairs), or fails: the container's header says count. */
typedef int encode_items(pc_writer *writer, PyObject *container, Py_ssize_t count, int depth);

static int encode_container(pc_writer *writer, enum pc_tag tag, PyObject *object, Py_ssize_t count,
                            encode_items *items, int depth)
{
    if (depth == PC_VALUE_DEPTH_MAX) {
        PyErr_Format(PyExc_ValueError, "nested deeper than %d", PC_VALUE_DEPTH_MAX);
        return -1;
    }
    size_t offset;
    int r = pc_write_open(writer, tag, &offset);
    if (r < 0)
        return r;
    r = items(writer, object, count, depth + 1);
    if (r < 0)
        return r;
    pc_write_close(writer, offset, (uint64_t)count);
    return 0;
}

static int encode_dict(pc_writer *writer, PyObject *dict, int depth)
{
    return encode_container(writer, PC_TAG_DICT, dict, PyDict_GET_SIZE(dict),
                            PyODict_Check(dict) ? encode_ordered_items : encode_dict_items, depth);
}

/* ---- what is none of Python's own types ---- */

static int find_type(PyObject *module, const char *name, PyObject **ret)
{
    PyObject *type = PyObject_GetAttrString(module, name);
    if (type == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError))
        return -1;
    if (type == NULL || !PyType_Check(type)) {
        PyErr_Clear(); /* numpy is still being imported, or is no numpy */
        Py_XDECREF(type);
        return 0;
    }
    Py_XSETREF(*ret, type);
    return 1;
}

/* 1, 0, or -1 with an exception. We never import numpy, but it may come at any time; until then
 * this is one look into sys.modules. */
static int has_numpy(void)
{
    if (tools.generic != NULL)
        return 1;
    PyObject *module = PyImport_GetModule(tools.numpy);
    if (module == NULL)
        return PyErr_Occurred() ? -1 : 0;
    int r = find_type(module, "ndarray", &tools.ndarray);
    if (r > 0)
        r = find_type(module, "generic", &tools.generic); /* last: it says that both are there */
    Py_DECREF(module);
    return r;
}

static bool is_numpy(PyObject *object)
{
    return PyObject_TypeCheck(object, (PyTypeObject *)tools.generic) ||
           PyObject_TypeCheck(object, (PyTypeObject *)tools.ndarray);
}

/* 1, 0, or -1 with an exception. Not for subclasses: a masked array's item() drops the mask. */
static int has_item(PyObject *object)
{
    if (PyObject_TypeCheck(object, (PyTypeObject *)tools.generic))
        return 1;
    if (!Py_IS_TYPE(object, (PyTypeObject *)tools.ndarray))
        return 0;
    PyObject *dimensions = PyObject_GetAttrString(object, "ndim");
    if (dimensions == NULL)
        return -1;
    int r = PyObject_Not(dimensions);
    Py_DECREF(dimensions);
    return r;
}

/* 1 and what the numpy scalar or 0-d array holds; 0 where that is nothing of Python's own (a
 * longdouble's item() is a longdouble; an array can hold itself); -1 with an exception. */
static int item_of(PyObject *object, PyObject **ret)
{
    int r = has_item(object);
    if (r <= 0)
        return r;
    PyObject *item = PyObject_CallMethod(object, "item", NULL);
    if (item == NULL)
        return -1;
    if (is_numpy(item)) {
        Py_DECREF(item);
        return 0;
    }
    *ret = item;
    return 1;
}

/* 1 and the int; 0 where it has no __index__, or one that refuses (TypeError: arrays and tensors
 * all have one, and mean only some of themselves); -1 with an exception. */
static int index_of(PyObject *object, PyObject **ret)
{
    if (!PyIndex_Check(object))
        return 0;
    *ret = PyNumber_Index(object);
    if (*ret != NULL)
        return 1;
    if (!PyErr_ExceptionMatches(PyExc_TypeError))
        return -1;
    PyErr_Clear();
    return 0;
}

int pc_convert_plain(PyObject *object, PyObject **ret)
{
    int r = has_numpy();

    if (r < 0)
        return -1;
    return r > 0 && is_numpy(object) ? item_of(object, ret) : index_of(object, ret);
}

/* Pickling lets other threads run, which may be encoding a result. */
static __thread bool without_arrays;

/* 1, or as encode. */
static int encode_copied(pc_writer *writer, PyObject *object, bool numpys)
{
    PyObject *bytes;
    int r;

    if (numpys) {
        r = pc_array_encode_whole(writer, object);
        if (r != 0)
            return r;
        PyErr_Format(PyExc_TypeError, "a host function takes no '%.200s' of this type: give it a plain ndarray of "
                     "numbers, bytes (tobytes()) or a list (tolist())", Py_TYPE(object)->tp_name);
        return -1;
    }
    bytes = PyBytes_FromObject(object);
    if (bytes == NULL)
        return -1;
    r = encode_bytes(writer, bytes);
    Py_DECREF(bytes);
    return r < 0 ? r : 1;
}

/* 1: written as one; 0; or as encode. */
static int encode_array(pc_writer *writer, PyObject *object, bool numpys)
{
    if (without_arrays && (numpys || PyMemoryView_Check(object) || PyByteArray_Check(object)))
        return encode_copied(writer, object, numpys);
    return numpys || PyMemoryView_Check(object) || PyByteArray_Check(object)
               ? pc_array_encode(writer, object)
               : 0;
}

static int encode_other(pc_writer *writer, PyObject *object, int depth)
{
    PyObject *inner;
    int r = has_numpy(), written = 0;
    bool numpys = r > 0 && is_numpy(object);
    if (numpys) /* and no index: a masked array's forgets the mask, too */
        r = item_of(object, &inner);
    else if (r >= 0)
        r = index_of(object, &inner);
    if (r == 0)
        written = encode_array(writer, object, numpys);
    if (written != 0)
        return written > 0 ? 0 : written;
    if (r <= 0)
        return r < 0 ? -1 : encode_pickled(writer, object);
    r = encode(writer, inner, depth);
    Py_DECREF(inner);
    return r;
}

/* Subclasses are what their base is; the checks are of type flags, but for float's. */
static int encode_base(pc_writer *writer, PyObject *object, int depth)
{
    if (PyList_Check(object))
        return encode_container(writer, PC_TAG_LIST, object, PyList_GET_SIZE(object),
                                encode_list_items, depth);
    if (PyTuple_Check(object))
        return encode_container(writer, PC_TAG_TUPLE, object, PyTuple_GET_SIZE(object),
                                encode_tuple_items, depth);
    if (PyDict_Check(object))
        return encode_dict(writer, object, depth);
    if (PyUnicode_Check(object))
        return encode_text(writer, PC_TAG_STR, object);
    if (PyBytes_Check(object))
        return encode_bytes(writer, object);
    if (PyLong_Check(object))
        return encode_int(writer, object);
    if (PyFloat_Check(object))
        return pc_write_f64(writer, PyFloat_AS_DOUBLE(object));
    return encode_other(writer, object, depth);
}

/* depth: how many containers are around the object. */
static int encode(pc_writer *writer, PyObject *object, int depth)
{
    if (PyLong_CheckExact(object))
        return encode_int(writer, object);
    if (PyFloat_CheckExact(object))
        return pc_write_f64(writer, PyFloat_AS_DOUBLE(object));
    if (PyUnicode_CheckExact(object))
        return encode_text(writer, PC_TAG_STR, object);
    if (object == Py_None)
        return pc_write_none(writer);
    if (PyBool_Check(object))
        return pc_write_bool(writer, object == Py_True);
    return encode_base(writer, object, depth);
}

static int encode_json(pc_writer *writer, PyObject *object)
{
    PyObject *text = PyObject_CallFunctionObjArgs(tools.json_encode, object, NULL);
    if (text == NULL)
        return -1;
    int r = encode_text(writer, PC_TAG_JSON, text);
    Py_DECREF(text);
    return r;
}

int pc_encode(pc_writer *writer, PyObject *object, bool json)
{
    size_t start = writer->size;
    if (PyLong_CheckExact(object) && !json)
        return encode_int(writer, object); /* one word, or none: there is no half of it */
    int r = json ? encode_json(writer, object) : encode(writer, object, 0);
    if (r < 0)
        writer->size = start; /* half a value is none */
    return r;
}

int pc_encode_argument(pc_writer *writer, PyObject *object)
{
    bool before = without_arrays;
    int r;

    without_arrays = true;
    r = pc_encode(writer, object, false);
    without_arrays = before;
    return r;
}
