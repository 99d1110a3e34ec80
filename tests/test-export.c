/* Python asks its host: values, names, types and exceptions both ways, threads, memory. */
#include <limits.h>

#include "tests/harness/crew.h"

/* ---- functions that are exported ---------------------------------------------------------------
 */

static int add(void *data, pycrew_host_call *call)
{
    long long a, b;
    int rc = pycrew_host_arguments(call, "LL", &a, &b);

    (void)data;
    return rc < 0 ? rc : pycrew_host_return(call, "L", a + b);
}

static int copy_value(pycrew_host_call *call, pycrew_value value);

static int copy_items(pycrew_host_call *call, pycrew_value value, int kind)
{
    int rc = pycrew_host_open(call, kind);

    for (pycrew_value at = pycrew_value_item(value, 0);
         rc == 0 && pycrew_value_type(at) != PYCREW_TYPE_INVALID; at = pycrew_value_next(at))
        rc = copy_value(call, at);
    return rc < 0 ? rc : pycrew_host_close(call);
}

static int copy_number(pycrew_host_call *call, pycrew_value value)
{
    int64_t number;
    uint64_t large;

    if (pycrew_value_i64(value, &number) == 0)
        return pycrew_host_return(call, "L", (long long)number);
    OK(pycrew_value_u64(value, &large));
    return pycrew_host_return(call, "K", (unsigned long long)large);
}

static int copy_value(pycrew_host_call *call, pycrew_value value)
{
    const char *text;
    const void *bytes;
    size_t size;
    double real;
    bool truth;

    switch (pycrew_value_type(value)) {
    case PYCREW_TYPE_NONE:
        return pycrew_host_return(call, "z", NULL);
    case PYCREW_TYPE_BOOL:
        OK(pycrew_value_bool(value, &truth));
        return pycrew_host_return(call, "p", truth);
    case PYCREW_TYPE_INT:
        return copy_number(call, value);
    case PYCREW_TYPE_FLOAT:
        OK(pycrew_value_f64(value, &real));
        return pycrew_host_return(call, "d", real);
    case PYCREW_TYPE_STR:
        OK(pycrew_value_str(value, &text, &size));
        return pycrew_host_return(call, "s#", text, size);
    case PYCREW_TYPE_BYTES:
        OK(pycrew_value_bytes(value, &bytes, &size));
        return pycrew_host_return(call, "y#", bytes, size);
    case PYCREW_TYPE_OBJECT:
        OK(pycrew_value_bytes(value, &bytes, &size));
        return pycrew_host_return(call, "O", bytes, size);
    case PYCREW_TYPE_LIST:
        return copy_items(call, value, PYCREW_LIST);
    case PYCREW_TYPE_TUPLE:
        return copy_items(call, value, PYCREW_TUPLE);
    case PYCREW_TYPE_DICT:
        return copy_items(call, value, PYCREW_DICT);
    default:
        return pycrew_host_fail(call, "NotImplementedError", "a value that is not copied");
    }
}

/* Whatever it is given. */
static int echo(void *data, pycrew_host_call *call)
{
    int rc = 0;

    (void)data;
    for (size_t i = 0; rc == 0 && i < pycrew_host_count(call); i++)
        rc = copy_value(call, pycrew_host_argument(call, i));
    return rc;
}

/* Formats and what they read, as one text. */
static int describe(void *data, pycrew_host_call *call)
{
    const char *name = NULL, *bytes = NULL;
    int count = -1, flag = -1;
    float ratio = 0.5f;
    size_t size = 0;
    char text[200];
    int rc = pycrew_host_arguments(call, "name=s count=i | flag=p, ratio=f, (y#)", &name, &count,
                                   &flag, &ratio, &bytes, &size);

    (void)data;
    if (rc < 0)
        return rc;
    snprintf(text, sizeof text, "%s %d %d %g %.*s", name, count, flag, (double)ratio, (int)size,
             bytes ? bytes : "");
    return pycrew_host_return(call, "s", text);
}

static int keyword(void *data, pycrew_host_call *call)
{
    (void)data;
    return copy_value(call, pycrew_host_keyword(call, "wanted"));
}

static int keywords(void *data, pycrew_host_call *call)
{
    (void)data;
    return pycrew_host_return(call, "n", (ptrdiff_t)pycrew_host_keywords(call));
}

static int nothing(void *data, pycrew_host_call *call)
{
    (void)data;
    (void)call;
    return 0;
}

static int three(void *data, pycrew_host_call *call)
{
    (void)data;
    for (int i = 0; i < 3; i++)
        OK(pycrew_host_return(call, "i", i));
    return 0;
}

/* Without varargs. */
static int one_of_each(void *data, pycrew_host_call *call)
{
    (void)data;
    OK(pycrew_host_return_none(call));
    OK(pycrew_host_return_bool(call, true));
    OK(pycrew_host_return_i64(call, INT64_MIN));
    OK(pycrew_host_return_u64(call, UINT64_MAX));
    OK(pycrew_host_return_f64(call, 0.5));
    OK(pycrew_host_open(call, PYCREW_LIST));
    OK(pycrew_host_return_str(call, "a\0b", 3));
    OK(pycrew_host_return_bytes(call, "\377", 1));
    return pycrew_host_close(call);
}

static int bad_text(void *data, pycrew_host_call *call)
{
    (void)data;
    GIVES(pycrew_host_return_str(call, "\377", 1), -EINVAL);
    GIVES(pycrew_host_return_none(call), -EINVAL); /* the first failure is the answer's */
    return 0;
}

static int fail(void *data, pycrew_host_call *call)
{
    const char *type, *text;
    int rc = pycrew_host_arguments(call, "zs", &type, &text);

    (void)data;
    return rc < 0 ? rc : pycrew_host_fail(call, type, text);
}

/* What it answered before is dropped, however much it is. */
static int fail_late(void *data, pycrew_host_call *call)
{
    (void)data;
    for (int i = 0; i < 100; i++)
        OK(pycrew_host_return(call, "s", "a part of an answer that takes a block of memory"));
    pycrew_host_fail(call, "ValueError", "late");
    return 0;
}

static int fail_with_code(void *data, pycrew_host_call *call)
{
    int code, rc = pycrew_host_arguments(call, "i", &code);

    (void)data;
    return rc < 0 ? rc : code;
}

static int answer_badly(void *data, pycrew_host_call *call)
{
    const char *format;
    int rc = pycrew_host_arguments(call, "s", &format);

    (void)data;
    if (rc == 0)
        pycrew_host_return(call, format, 1, 2); /* what it says is forgotten */
    return rc;
}

/* The sum of the bytes, and as many bytes back. */
static int sum_bytes(void *data, pycrew_host_call *call)
{
    const unsigned char *bytes;
    long long sum = 0;
    size_t size;
    int rc = pycrew_host_arguments(call, "y#", &bytes, &size);

    (void)data;
    for (size_t i = 0; rc == 0 && i < size; i++)
        sum += bytes[i];
    return rc < 0 ? rc : pycrew_host_return(call, "L y#", sum, bytes, size);
}

static int size_of(void *data, pycrew_host_call *call)
{
    (void)data;
    return pycrew_host_return(call, "n", (ptrdiff_t)pycrew_host_count(call));
}

/* A gate that functions wait at. */
typedef struct gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool open;
    _Atomic int inside, most; /* functions in it, and how many at most */
} gate;

static void gate_init(gate *g)
{
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->opened, NULL);
}

static int wait_for_gate(void *data, pycrew_host_call *call)
{
    gate *g = data;
    int now = atomic_fetch_add(&g->inside, 1) + 1, most = atomic_load(&g->most);

    while (now > most && !atomic_compare_exchange_weak(&g->most, &most, now))
        continue;
    pthread_mutex_lock(&g->lock);
    while (!g->open)
        pthread_cond_wait(&g->opened, &g->lock);
    pthread_mutex_unlock(&g->lock);
    atomic_fetch_sub(&g->inside, 1);
    return pycrew_host_return(call, "i", 99);
}

static int open_gate(void *data, pycrew_host_call *call)
{
    gate *g = data;

    (void)call;
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->opened);
    pthread_mutex_unlock(&g->lock);
    return 0;
}

/* ---- helpers -----------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    pycrew_host_function function;
} functions[] = {{"add", add},
                 {"echo", echo},
                 {"describe", describe},
                 {"keyword", keyword},
                 {"keywords", keywords},
                 {"nothing", nothing},
                 {"three", three},
                 {"one_of_each", one_of_each},
                 {"bad_text", bad_text},
                 {"fail", fail},
                 {"fail_late", fail_late},
                 {"fail_with_code", fail_with_code},
                 {"answer_badly", answer_badly},
                 {"sum_bytes", sum_bytes},
                 {"size_of", size_of}};

static void export_all(pycrew_crew *crew)
{
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        OK(pycrew_export(crew, functions[i].name, functions[i].function, NULL));
}

static pycrew_crew *open_exporting(unsigned workers, unsigned threads)
{
    pycrew_options options = test_options(workers);
    pycrew_crew *crew;

    options.export_threads = threads;
    crew = open_with(&options);
    export_all(crew);
    return crew;
}

/* What a Python expression is, or raises, in words. */
static const char *said(pycrew_crew *crew, const char *expression)
{
    static char text[1000];
    char *result = NULL;

    OK(pycrew_run(crew, "host_ops:caught", "s>s", expression, &result));
    snprintf(text, sizeof text, "%s", result);
    free(result);
    return text;
}

#define SAYS(crew, expression, expected) ASSERT_STR(said((crew), (expression)), (expected))

static int run_sum(pycrew_crew *crew)
{
    int sum = 0;

    OK(pycrew_run(crew, "host_ops:ask", "sii>i", "add", 40, 2, &sum));
    return sum;
}

/* ---- values ------------------------------------------------------------------------------------
 */

TEST(a_host_function_adds)
{
    pycrew_crew *crew = open_exporting(1, 0);

    ASSERT_INT(run_sum(crew), 42);
    pycrew_close(crew);
}

TEST(values_of_all_types_go_to_the_host_and_back)
{
    static const char *const values[] = {"None",
                                         "True",
                                         "False",
                                         "0",
                                         "-1",
                                         "2**63 - 1",
                                         "-2**63",
                                         "2**64 - 1",
                                         "1.5",
                                         "float('inf')",
                                         "''",
                                         "'text'",
                                         "'a\\x00b'",
                                         "'\\u20ac' * 30",
                                         "'x' * 96",
                                         "'x' * 97",
                                         "'x' * 1000",
                                         "b''",
                                         "b'\\x00\\xff'",
                                         "[]",
                                         "[1, [2, (3, {'a': [None]})]]",
                                         "()",
                                         "{}",
                                         "{1: 'one', 'two': 2.0}",
                                         "{1, 2, 3}",
                                         "complex(1, 2)",
                                         "list(range(1000))",
                                         "[[]] * 100"};
    pycrew_crew *crew = open_exporting(1, 0);

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char expression[200];

        snprintf(expression, sizeof expression,
                 "(host.echo(%s) == %s, type(host.echo(%s)) is type(%s))", values[i], values[i],
                 values[i], values[i]);
        SAYS(crew, expression, "returned (True, True)");
    }
    pycrew_close(crew);
}

TEST(bytes_of_other_types_come_as_bytes)
{
    pycrew_crew *crew = open_exporting(1, 0);

    SAYS(crew, "host.echo(bytearray(b'abc'))", "returned b'abc'");
    SAYS(crew, "host.echo([memoryview(b'abc')[1:]])", "returned [b'bc']");
    pycrew_close(crew);
}

TEST(answers_are_also_given_without_varargs)
{
    pycrew_crew *crew = open_exporting(1, 0);

    SAYS(crew, "host.one_of_each()",
         "returned (None, True, -9223372036854775808, 18446744073709551615, 0.5, ['a\\x00b', "
         "b'\\xff'])");
    CONTAINS(said(crew, "host.bad_text()"), "ValueError: ");
    pycrew_close(crew);
}

TEST(no_value_is_none_and_several_are_a_tuple)
{
    pycrew_crew *crew = open_exporting(1, 0);

    SAYS(crew, "host.nothing()", "returned None");
    SAYS(crew, "host.three()", "returned (0, 1, 2)");
    SAYS(crew, "host.echo((1, 2))", "returned (1, 2)");
    SAYS(crew, "host.echo((1,), 2)", "returned ((1,), 2)");
    SAYS(crew, "host.echo()", "returned None");
    pycrew_close(crew);
}

TEST(values_larger_than_a_span_go_both_ways)
{
    pycrew_crew *crew = open_exporting(1, 0);

    SAYS(crew,
         "(lambda b: (lambda s, r: (s == sum(b), r == b))(*host.sum_bytes(b)))(bytes(range(256)) * "
         "40000)",
         "returned (True, True)");
    pycrew_close(crew);
}

TEST(an_answer_that_exceeds_the_memory_is_a_memory_error)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.memory = (size_t)16 << 20;
    options.calls = 64;
    crew = open_with(&options);
    export_all(crew);
    CONTAINS(said(crew, "host.echo(b'x' * (20 << 20))"), "MemoryError: the arguments exceed");
    CONTAINS(said(crew, "host.echo(b'x' * (9 << 20))"), "MemoryError: ");
    SAYS(crew, "len(host.echo(b'x' * (2 << 20)))", "returned 2097152"); /* nothing of it is left */
    pycrew_close(crew);
}

/* ---- arguments ---------------------------------------------------------------------------------
 */

TEST(arguments_come_by_place_and_by_keyword)
{
    pycrew_crew *crew = open_exporting(1, 0);

    SAYS(crew, "host.describe('a', 1)", "returned 'a 1 -1 0.5 '");
    SAYS(crew, "host.describe('a', count=1)", "returned 'a 1 -1 0.5 '");
    SAYS(crew, "host.describe(count=1, name='a')", "returned 'a 1 -1 0.5 '");
    SAYS(crew, "host.describe('a', 1, ratio=2)", "returned 'a 1 -1 2 '");
    SAYS(crew, "host.describe('a', 1, True, 2.5, (b'xy',))", "returned 'a 1 1 2.5 xy'");
    SAYS(crew, "host.keyword(1, 2, other=3, wanted=[4])", "returned [4]");
    SAYS(crew, "host.keywords(1, a=[2, 3], b={'c': 4}), host.keywords(), host.keywords(1)", "returned (2, 0, 0)");
    SAYS(crew, "host.keyword(1, wanted_not=3)", "NotImplementedError: a value that is not copied");
    pycrew_close(crew);
}

TEST(wrong_arguments_are_a_type_error_that_names_them)
{
    pycrew_crew *crew = open_exporting(1, 0);

    SAYS(crew, "host.describe()", "TypeError: argument 1 ('name') is missing");
    SAYS(crew, "host.describe('a')", "TypeError: argument 2 ('count') is missing");
    SAYS(crew, "host.describe('a', 'b')", "TypeError: argument 2: expected int, got str");
    SAYS(crew, "host.describe('a', 1, True, 1.0, (b'',), 6)",
         "TypeError: 6 arguments are given, at most 5 are taken");
    SAYS(crew, "host.describe('a', 1, speed=3)", "TypeError: there is no argument 'speed'");
    SAYS(crew, "host.describe('a', 1, name='b')", "TypeError: an argument is given twice");
    SAYS(crew, "host.describe('a', 1, True, 1.0, (3,))",
         "TypeError: argument 5 item 1: expected bytes, got int");
    SAYS(crew, "host.describe('a', 2**31)",
         "OverflowError: argument 2: 2147483648 is out of range for int");
    SAYS(crew, "host.describe('a\\x00b', 1)",
         "ValueError: argument 1: the str has a NUL inside, so its size must be asked for");
    SAYS(crew, "host.add(1)", "TypeError: argument 2 is missing");
    SAYS(crew, "host.add(1, 2, 3)", "TypeError: 3 arguments are given, at most 2 are taken");
    pycrew_close(crew);
}

TEST(what_cannot_be_an_argument_is_said_before_the_host_is_asked)
{
    pycrew_crew *crew = open_exporting(1, 0);

    CONTAINS(said(crew, "host.echo(lambda: 0)"), "TypeError: cannot pickle 'function' object");
    CONTAINS(said(crew, "host.echo('\\ud800')"), "UnicodeEncodeError: ");
    CONTAINS(said(crew, "host.echo([(l := []), l.append(l)] and l)"), "ValueError: nested deeper");
    ASSERT_INT(run_sum(crew), 42);
    pycrew_close(crew);
}

/* The sum of a matrix of float64, each element times its row's number, and whether it is in
 * Fortran's order. */
static int weigh(void *data, pycrew_host_call *call)
{
    pycrew_array array = PYCREW_ARRAY_INIT;
    double sum = 0;
    int rc = pycrew_host_arguments(call, "A", &array);

    (void)data;
    if (rc < 0)
        return rc;
    if (array.dtype != PYCREW_F64 || array.ndim != 2)
        return pycrew_host_fail(call, "TypeError", "no matrix of float64");
    for (int64_t i = 0; i < array.shape[0]; i++)
        for (int64_t j = 0; j < array.shape[1]; j++)
            sum += (double)i * *(double *)(void *)((char *)array.data + i * array.strides[0] +
                                                   j * array.strides[1]);
    return pycrew_host_return(call, "d i", sum, array.strides[0] == 8 && array.shape[0] > 1);
}

/* Through values, inside of a list. */
static int describe_arrays(void *data, pycrew_host_call *call)
{
    pycrew_value at = pycrew_value_item(pycrew_host_argument(call, 0), 0);
    int rc = pycrew_host_open(call, PYCREW_LIST);

    (void)data;
    for (; rc == 0 && pycrew_value_type(at) == PYCREW_TYPE_ARRAY; at = pycrew_value_next(at)) {
        pycrew_array array = PYCREW_ARRAY_INIT;

        OK(pycrew_value_array(at, &array));
        rc = pycrew_host_return(call, "(iin)", (int)array.dtype, array.ndim,
                                array.data == NULL ? 0
                                                   : (ptrdiff_t)((unsigned char *)array.data)[0]);
    }
    return rc < 0 ? rc : pycrew_host_close(call);
}

static pycrew_crew *open_with_numpy(void)
{
    pycrew_crew *crew = open_exporting(1, 0);

    OK(pycrew_export(crew, "weigh", weigh, NULL));
    OK(pycrew_export(crew, "describe_arrays", describe_arrays, NULL));
    if (pycrew_run(crew, "host_ops:evaluate", "s>", "bool(np())") < 0)
        SKIP("no numpy");
    return crew;
}

TEST(the_host_reads_numpys_arrays)
{
    pycrew_crew *crew = open_with_numpy();

    SAYS(crew, "host.weigh(np().ones((3, 4)))", "returned (12.0, 0)");
    SAYS(crew, "host.weigh(np().arange(12.0).reshape(3, 4))", "returned (98.0, 0)");
    SAYS(crew, "host.weigh(np().asfortranarray(np().arange(12.0).reshape(3, 4)))",
         "returned (98.0, 1)");
    SAYS(crew, "host.weigh(np().arange(24.0).reshape(3, 8)[::-1, ::2])", "returned (68.0, 0)");
    SAYS(crew, "host.weigh(np().ones((1000, 1000)))", "returned (499500000.0, 0)");
    SAYS(crew, "host.weigh(np().ones((0, 4)))", "returned (0.0, 0)");
    SAYS(crew, "host.weigh(pycrew.empty((2, 2)) * 0 + 1.5)", "returned (3.0, 0)");
    SAYS(crew,
         "host.describe_arrays([np().full(1, 7, 'u1'), np().zeros((2, 0), 'c16'), "
         "np().full(3, 9, '<i2')[::2]])",
         "returned [(6, 1, 7), (14, 2, 0), (3, 1, 9)]");
    SAYS(crew, "host.weigh(1)", "TypeError: argument 1: expected array, got int");
    pycrew_close(crew);
}

TEST(an_array_that_the_host_cannot_read_is_refused_with_what_to_give_instead)
{
    static const char *const refused[] = {"np().zeros(3, object)", "np().zeros(2, 'datetime64[s]')",
                                          "np().zeros(2, '>f8')", "np().zeros(2, 'f4,i4')",
                                          "np().ma.masked_array([1.0])"};
    pycrew_crew *crew = open_with_numpy();
    char *text = NULL;

    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        char expression[100];

        snprintf(expression, sizeof expression, "host.echo(%s)", refused[i]);
        CONTAINS(said(crew, expression), "TypeError: a host function takes no '");
        CONTAINS(said(crew, expression),
                 "give it a plain ndarray of numbers, bytes (tobytes()) or a list (tolist())");
    }
    SAYS(crew, "host.echo(np().float64(1.5))", "returned 1.5");
    SAYS(crew, "host.add(np().zeros(3), 1)", "TypeError: argument 1: expected int, got array");
    /* A result is one all the same. */
    OK(pycrew_run(crew, "host_ops:evaluate", "s>j", "np().arange(3)", &text));
    free(text);
    pycrew_close(crew);
}

/* ---- names -------------------------------------------------------------------------------------
 */

TEST(an_unknown_name_is_an_attribute_error_that_lists_the_known_ones)
{
    pycrew_crew *crew = open_crew(1);

    SAYS(crew, "host.add(1, 2)",
         "AttributeError: the host exports no function 'add'; it exports nothing");
    OK(pycrew_export(crew, "add", add, NULL));
    OK(pycrew_export(crew, "echo", echo, NULL));
    SAYS(crew, "host.subtract(1, 2)",
         "AttributeError: the host exports no function 'subtract'; it exports add, echo");
    SAYS(crew, "dir(host)", "returned ['add', 'echo']");
    SAYS(crew, "hasattr(host, 'add'), hasattr(host, 'none')", "returned (True, False)");
    SAYS(crew, "host.add, host.add.__name__", "returned (<host function add>, 'add')");
    pycrew_close(crew);
}

TEST(a_function_exported_later_is_seen_by_workers_that_know_others)
{
    pycrew_crew *crew = open_crew(1);

    OK(pycrew_export(crew, "add", add, NULL));
    ASSERT_INT(run_sum(crew), 42);
    OK(pycrew_export(crew, "echo", echo, NULL));
    SAYS(crew, "host.echo(1)", "returned 1");
    pycrew_close(crew);
}

TEST(names_that_cannot_be_are_refused)
{
    static const char *const wrong[] = {"", "1a", "a b", "a.b", "__add__", "\xc3\xa4"};
    pycrew_crew *crew = open_crew(1);
    char long_name[300];

    memset(long_name, 'a', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        GIVES(pycrew_export(crew, wrong[i], add, NULL), -EINVAL);
    GIVES(pycrew_export(crew, long_name, add, NULL), -EINVAL);
    GIVES(pycrew_export(crew, NULL, add, NULL), -EINVAL);
    GIVES(pycrew_export(crew, "add", NULL, NULL), -EINVAL);
    GIVES(pycrew_export(NULL, "add", add, NULL), -EINVAL);
    OK(pycrew_export(crew, "add", add, NULL));
    GIVES(pycrew_export(crew, "add", echo, NULL), -EEXIST);
    ASSERT_INT(run_sum(crew), 42);
    OK(pycrew_drain(crew, BOUND));
    GIVES(pycrew_export(crew, "late", add, NULL), -ESHUTDOWN);
    pycrew_close(crew);
}

TEST(as_many_functions_as_one_likes_are_found)
{
    enum { MANY = 1000 };
    pycrew_crew *crew = open_crew(1);
    char name[32];

    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "function_%d", i);
        OK(pycrew_export(crew, name, i == MANY - 1 ? add : nothing, NULL));
    }
    SAYS(crew, "host.function_999(1, 2), len(dir(host))", "returned (3, 1000)");
    pycrew_close(crew);
}

TEST(too_many_export_threads_are_refused)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew = NULL;

    options.export_threads = 100000;
    GIVES(pycrew_open(&crew, &options), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "options.export_threads is 100000");
}

/* ---- exceptions --------------------------------------------------------------------------------
 */

TEST(a_failure_raises_the_builtin_exception_of_its_name)
{
    pycrew_crew *crew = open_exporting(1, 0);

    SAYS(crew, "host.fail('ValueError', 'no good')", "ValueError: no good");
    SAYS(crew, "host.fail('KeyError', 'bread')", "KeyError: 'bread'");
    SAYS(crew, "host.fail('NoSuchError', 'text')", "RuntimeError: text");
    SAYS(crew, "host.fail('print', 'text')", "RuntimeError: text");
    SAYS(crew, "host.fail('SystemExit', 'text')", "RuntimeError: text");
    SAYS(crew, "host.fail('UnicodeDecodeError', 'takes five')", "RuntimeError: takes five");
    SAYS(crew, "host.fail(None, 'text')", "RuntimeError: text");
    CONTAINS(said(crew, "host.fail('ValueError', 'x' * 500)"), "ValueError: xxxxxxxxxx");
    SAYS(crew, "host.fail_late()", "ValueError: late");
    pycrew_close(crew);
}

TEST(codes_become_exceptions)
{
    pycrew_crew *crew = open_exporting(1, 0);
    static const struct {
        int code;
        const char *type;
    } expected[] = {{PYCREW_ETYPE, "TypeError"}, {-EINVAL, "ValueError"},
                    {-ERANGE, "OverflowError"},  {-ENOMEM, "MemoryError"},
                    {-E2BIG, "MemoryError"},     {-ETIMEDOUT, "TimeoutError"},
                    {-EIO, "OSError"},           {PYCREW_EDIED, "RuntimeError"}};

    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        char expression[100], text[200];

        snprintf(expression, sizeof expression, "host.fail_with_code(%d)", expected[i].code);
        snprintf(text, sizeof text, "%s: %s", expected[i].type, pycrew_strerror(expected[i].code));
        SAYS(crew, expression, text);
    }
    SAYS(crew, "host.fail_with_code(7)", "returned None");
    pycrew_close(crew);
}

TEST(an_answer_that_could_not_be_built_raises_though_the_function_does_not_care)
{
    pycrew_crew *crew = open_exporting(1, 0);

    CONTAINS(said(crew, "host.answer_badly('x')"), "ValueError: ");
    CONTAINS(said(crew, "host.answer_badly('i>i')"), "ValueError: ");
    CONTAINS(said(crew, "host.answer_badly('a=i')"), "ValueError: ");
    CONTAINS(said(crew, "host.answer_badly('(i')"), "ValueError: ");
    SAYS(crew, "host.answer_badly('ii')", "returned (1, 2)");
    pycrew_close(crew);
}

TEST(an_exception_of_the_hosts_is_the_calls_if_nobody_catches_it)
{
    pycrew_crew *crew = open_exporting(1, 0);

    GIVES(pycrew_run(crew, "host_ops:ask", "sss>", "fail", "LookupError", "not there"),
          PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "LookupError");
    ASSERT_STR(pycrew_last_error()->message, "not there");
    CONTAINS(pycrew_last_error()->traceback, "in ask");
    pycrew_close(crew);
}

/* ---- threads -----------------------------------------------------------------------------------
 */

TEST(threads_of_python_ask_at_the_same_time)
{
    pycrew_crew *crew = open_exporting(1, 3);

    SAYS(crew, "threads(20, 100) == [number * 100 + 4950 for number in range(20)]",
         "returned True");
    pycrew_close(crew);
}

TEST(other_threads_of_python_go_on_while_one_waits)
{
    pycrew_crew *crew = open_exporting(1, 2);
    gate g = {.open = false};

    gate_init(&g);
    OK(pycrew_export(crew, "wait_for_gate", wait_for_gate, &g));
    OK(pycrew_export(crew, "open_gate", open_gate, &g));
    SAYS(crew, "other_threads_go_on()", "returned True");
    pycrew_close(crew);
}

TEST(a_coroutine_awaits_the_host_and_others_go_on_in_its_worker)
{
    enum { WAITING = 3 };
    pycrew_crew *crew = open_exporting(1, WAITING + 1);
    pycrew_call *calls[WAITING];
    gate g = {.open = false};
    char *text;
    int value;

    gate_init(&g);
    OK(pycrew_export(crew, "wait_for_gate", wait_for_gate, &g));
    for (int i = 0; i < WAITING; i++)
        calls[i] = SUBMIT(crew, "host_ops:await_gate", "");
    AWAIT(atomic_load(&g.inside) == WAITING);
    SAYS(crew, "1 + 1", "returned 2");
    OK(pycrew_run(crew, "host_ops:await_sums", "i>i", 30, &value));
    ASSERT_INT(value, 30 * 31 / 2);
    open_gate(&g, NULL);
    for (int i = 0; i < WAITING; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "i", &value));
        ASSERT_INT(value, 99);
        pycrew_release(calls[i]);
    }
    OK(pycrew_run(crew, "host_ops:await_caught", "s>s", "no_such", &text));
    CONTAINS(text, "AttributeError: the host exports no function 'no_such'");
    free(text);
    pycrew_close(crew);
}

TEST(a_task_that_is_cancelled_while_it_awaits_the_host_holds_no_thread)
{
    pycrew_crew *crew = open_exporting(1, 2);
    gate g = {.open = false};
    int value;

    gate_init(&g);
    OK(pycrew_export(crew, "wait_for_gate", wait_for_gate, &g));
    OK(pycrew_export(crew, "open_gate", open_gate, &g));
    OK(pycrew_run(crew, "host_ops:give_up", "d>i", 0.1, &value));
    ASSERT_INT(value, 7);
    ASSERT_INT(atomic_load(&g.most), 2);
    open_gate(&g, NULL); /* and their places are free with the answers, or where they were not asked yet */
    for (int i = 0; i < 3; i++) {
        OK(pycrew_run(crew, "host_ops:await_sums", "i>i", 30, &value));
        ASSERT_INT(value, 30 * 31 / 2);
    }
    AWAIT(atomic_load(&g.inside) == 0);
    ASSERT_INT(atomic_load(&g.most), 2);
    pycrew_close(crew);
}

TEST(workers_ask_in_parallel)
{
    enum { CALLS = 40, TIMES = 200 };
    pycrew_crew *crew = open_exporting(3, 2);
    pycrew_call *calls[CALLS];

    for (int i = 0; i < CALLS; i++)
        calls[i] = SUBMIT(crew, "host_ops:execute", "s",
                          "result = sum(host.add(i, len(host.echo('x' * i))) for i in range(200))");
    for (int i = 0; i < CALLS; i++) {
        int64_t sum;

        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result_i64(calls[i], &sum));
        ASSERT_INT(sum, TIMES * (TIMES - 1));
        pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

/* As many functions as there are threads run at a time, and no more. */
static void expect_at_once(unsigned threads)
{
    pycrew_crew *crew = open_exporting(4, threads);
    unsigned expected = threads == 0 ? 1 : threads;
    pycrew_call *calls[4];
    gate g = {.open = false};

    gate_init(&g);
    OK(pycrew_export(crew, "wait_for_gate", wait_for_gate, &g));
    for (int i = 0; i < 4; i++)
        calls[i] = SUBMIT(crew, "host_ops:ask", "s", "wait_for_gate");
    AWAIT(atomic_load(&g.inside) == (int)expected);
    pause_ns(20 * MS); /* to see too many; too few were seen by now */
    open_gate(&g, NULL);
    for (int i = 0; i < 4; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    ASSERT_INT(atomic_load(&g.most), (int)expected);
    pycrew_close(crew);
}

TEST(with_one_thread_no_two_functions_run_at_a_time)
{
    expect_at_once(0);
}

TEST(with_three_threads_three_functions_run_at_a_time)
{
    expect_at_once(3);
}

/* ---- the crew in between -----------------------------------------------------------------------
 */

static int run_call(void *data, pycrew_host_call *call)
{
    pycrew_crew *crew = data;
    long long a, b, product;
    int rc = pycrew_host_arguments(call, "LL", &a, &b);

    if (rc == 0)
        rc = pycrew_run(crew, "operator:mul", "LL>L", a, b, &product);
    return rc < 0 ? rc : pycrew_host_return(call, "L", product);
}

TEST(a_host_function_runs_calls_of_the_crew)
{
    pycrew_crew *crew = open_exporting(2, 0);

    OK(pycrew_export(crew, "multiply", run_call, crew));
    SAYS(crew, "[host.multiply(i, 3) for i in range(3)]", "returned [0, 3, 6]");
    pycrew_close(crew);
}

TEST(functions_that_wait_for_a_call_while_all_workers_wait_for_functions_are_told)
{
    for (unsigned workers = 1; workers <= 2; workers++)
        for (unsigned threads = 1; threads <= 2; threads++) {
            pycrew_crew *crew = open_exporting(workers, threads);
            pycrew_call *calls[2] = {NULL};
            unsigned locked = 0;

            OK(pycrew_export(crew, "multiply", run_call, crew));
            for (unsigned i = 0; i < workers; i++)
                calls[i] = SUBMIT(crew, "host_ops:multiply_together", "sii", "multiply", 6, 7);
            for (unsigned i = 0; i < workers; i++) {
                int64_t product = 0;
                int rc = pycrew_wait(calls[i], BOUND);

                if (rc == 0)
                    OK(pycrew_result_i64(calls[i], &product));
                else
                    CONTAINS(pycrew_last_error()->message,
                             "all workers wait for exported functions");
                locked += rc != 0;
                ASSERT_INT(product, rc == 0 ? 42 : 0);
                pycrew_release(calls[i]);
            }
            ASSERT_INT(locked, 1);
            pycrew_close(crew);
        }
}

/* ---- calls that only the worker can run that waits for the function ---- */

static atomic_int waiting;

static int run_get(void *data, pycrew_host_call *call)
{
    pycrew_actor **actors = data;
    int of, value, rc = pycrew_host_arguments(call, "i", &of);

    atomic_fetch_add(&waiting, 1);
    if (rc == 0)
        rc = pycrew_actor_run(actors[of], "get", ">i", &value);
    atomic_fetch_sub(&waiting, 1);
    return rc < 0 ? rc : pycrew_host_return(call, "i", value);
}

/* One actor's function asks the other to ask for the first. */
static int run_circle(void *data, pycrew_host_call *call)
{
    pycrew_actor **actors = data;
    const char *text;
    char *copy;
    int rc = pycrew_actor_run(actors[1], "ask", "si>s", "get", 0, &copy);

    if (rc < 0)
        return rc;
    text = copy;
    rc = pycrew_host_return(call, "s", text);
    free(copy);
    return rc;
}

static int run_in_each(void *data, pycrew_host_call *call)
{
    int rc = pycrew_run_each(data, "os:getpid", "");

    return rc < 0 ? rc : pycrew_host_return(call, "s", "done");
}

static int read_stream(void *data, pycrew_host_call *call)
{
    pycrew_call **stream = data;
    int rc = pycrew_next(*stream, BOUND);

    return rc < 0 ? rc : pycrew_host_return(call, "s", "read");
}

static char *ask_actor(pycrew_actor *actor, const char *format, const char *name, int argument)
{
    char *text = NULL;

    OK(pycrew_actor_run_within(actor, BOUND, "ask", format, name, argument, &text));
    return text;
}

static void open_two(pycrew_crew *crew, pycrew_actor **actors)
{
    for (int i = 0; i < 2; i++)
        OK(pycrew_actor_open(crew, &actors[i], BOUND, "host_ops:Asker", ""));
    ASSERT(pycrew_actor_worker(actors[0]) != pycrew_actor_worker(actors[1]));
    OK(pycrew_export(crew, "get", run_get, actors));
}

TEST(a_function_that_waits_for_an_actor_in_the_worker_that_waits_for_it_is_told)
{
    pycrew_crew *crew = open_exporting(3, 2);
    pycrew_actor *actors[2];
    char *text;

    open_two(crew, actors);
    text = ask_actor(actors[0], "si>s", "get", 1);
    ASSERT_STR(text, "returned 42");
    free(text);
    text = ask_actor(actors[0], "si>s", "get", 0);
    CONTAINS(text, "OSError");
    CONTAINS(text, "only worker");
    free(text);
    for (int i = 0; i < 2; i++)
        pycrew_actor_close(actors[i]);
    pycrew_close(crew);
}

TEST(functions_that_wait_in_a_circle_of_two_workers_are_told)
{
    for (unsigned threads = 1; threads <= 3; threads++) {
        pycrew_crew *crew = open_exporting(3, threads);
        pycrew_actor *actors[2];
        char *text;
        int value;

        open_two(crew, actors);
        OK(pycrew_export(crew, "circle", run_circle, actors));
        text = NULL;
        OK(pycrew_actor_run_within(actors[0], BOUND, "ask", "s>s", "circle", &text));
        CONTAINS(text, "only worker");
        free(text);
        pycrew_actor_run(actors[1], "get", ">i", &value); /* there it has begun or never will, */
        AWAIT(atomic_load(&waiting) == 0);                /* and has ended */
        for (int i = 0; i < 2; i++)
            pycrew_actor_close(actors[i]);
        pycrew_close(crew);
    }
}

TEST(run_each_in_a_function_is_told_of_the_worker_that_waits_for_it)
{
    pycrew_crew *crew = open_exporting(2, 0);

    OK(pycrew_export(crew, "each", run_in_each, crew));
    CONTAINS(said(crew, "host.each()"), "only worker");
    OK(pycrew_run_each(crew, "os:getpid", ""));
    pycrew_close(crew);
}

TEST(a_function_that_reads_a_stream_of_the_worker_that_waits_for_it_is_told)
{
    pycrew_crew *crew = open_exporting(1, 0);
    pycrew_call *stream = prepare(crew, "actor_ops:count_to");

    OK(pycrew_export(crew, "read", read_stream, &stream));
    OK(pycrew_set_stream(stream, 1));
    OK(pycrew_add(stream, "i", 10));
    OK(pycrew_submit(stream));
    GIVES(pycrew_next(stream, BOUND), 1);
    CONTAINS(said(crew, "host.read()"), "only worker");
    for (int i = 1; i < 10; i++)
        GIVES(pycrew_next(stream, BOUND), 1); /* it goes on */
    OK(pycrew_next(stream, BOUND));
    pycrew_release(stream);
    pycrew_close(crew);
}

/* Its worker runs calls meanwhile: it is a thread beside that asks. */
TEST(a_thread_beside_the_calls_may_ask_for_what_runs_a_call_of_the_only_worker)
{
    pycrew_crew *crew = open_exporting(1, 1);
    char *text = NULL;

    OK(pycrew_export(crew, "multiply", run_call, crew));
    OK(pycrew_run(crew, "host_ops:ask_beside", "d>", 0.3));
    for (;;) {
        OK(pycrew_run_within(crew, BOUND, "host_ops:answer_beside", ">s", &text));
        if (strcmp(text, "nothing yet") != 0)
            break;
        free(text);
        pause_ns(MS);
    }
    ASSERT_STR(text, "42");
    free(text);
    pycrew_close(crew);
}

TEST(the_error_of_a_call_that_a_host_function_ran_is_told)
{
    pycrew_crew *crew = open_exporting(2, 0);

    OK(pycrew_export(crew, "multiply", run_call, crew));
    CONTAINS(said(crew, "host.multiply(2**62, 4)"), "OverflowError: ");
    pycrew_close(crew);
}

TEST(a_pickled_argument_may_ask_the_host_itself)
{
    pycrew_crew *crew = open_exporting(1, 0);

    SAYS(crew, "nested()", "returned True");
    pycrew_close(crew);
}

TEST(items_of_batches_and_elements_of_maps_ask_too)
{
    enum { COUNT = 1000 };
    pycrew_crew *crew = open_exporting(2, 0);
    const pycrew_function *function = NULL;
    int64_t numbers[COUNT], results[COUNT], count = COUNT;
    pycrew_batch *batch = NULL;
    pycrew_array input, output;

    OK(pycrew_function_source(
        crew, "twice", "def twice(x):\n    import pycrew\n    return pycrew.host.add(x, x)\n",
        &function));
    OK(pycrew_batch_open(crew, function, NULL, &batch));
    for (int i = 0; i < COUNT; i++) {
        numbers[i] = i;
        OK(pycrew_batch_add(batch, "i", i));
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < COUNT; i++) {
        int result;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "i", &result));
        ASSERT_INT(result, 2 * i);
    }
    pycrew_batch_close(batch);
    OK(pycrew_array_init(&input, numbers, PYCREW_I64, 1, &count, 0));
    OK(pycrew_array_init(&output, results, PYCREW_I64, 1, &count, 0));
    OK(pycrew_map(crew, function, &input, 1, &output, NULL));
    for (int i = 0; i < COUNT; i++)
        ASSERT_INT(results[i], 2 * i);
    pycrew_close(crew);
}

TEST(two_crews_have_functions_of_their_own)
{
    pycrew_crew *one = open_exporting(1, 0), *two = open_crew(1);

    OK(pycrew_export(two, "add", nothing, NULL));
    ASSERT_INT(run_sum(one), 42);
    SAYS(two, "host.add(1, 2)", "returned None");
    SAYS(two, "dir(host)", "returned ['add']");
    pycrew_close(one);
    SAYS(two, "host.add(1, 2)", "returned None");
    pycrew_close(two);
}

static int note(void *data, pycrew_host_call *call)
{
    const char *text;
    int rc = pycrew_host_arguments(call, "s", &text);

    if (rc == 0)
        snprintf(data, 32, "%s", text);
    return rc;
}

TEST(the_exit_function_may_ask_and_the_init_function_is_told_that_it_may_not)
{
    pycrew_options options = test_options(1);
    char noted[32] = "";
    char *text = NULL;
    pycrew_crew *crew;

    options.exit = "host_ops:at_exit";
    options.init = "host_ops:at_init";
    options.grace_ns = 5 * SECOND;
    crew = open_with(&options);
    OK(pycrew_export(crew, "note", note, noted));
    OK(pycrew_run(crew, "host_ops:init_said", ">s", &text));
    CONTAINS(text, "not in the init function");
    free(text);
    pycrew_close(crew);
    ASSERT_STR(noted, "exit");
}

/* ---- memory ------------------------------------------------------------------------------------
 */

static size_t memory_used(pycrew_crew *crew)
{
    pycrew_stats stats = PYCREW_STATS_INIT;

    OK(pycrew_stats_get(crew, &stats));
    return stats.memory_used;
}

TEST(ten_thousand_calls_leave_no_memory_behind)
{
    pycrew_crew *crew = open_exporting(1, 0);
    static const char some[] = "[host.echo(b'x' * (i % 3000)) for i in range(500)][0]";
    static const char many[] = "[host.echo(b'x' * (i % 3000)) for i in range(10000)][0]";
    size_t before;

    SAYS(crew, some, "returned b''");
    before = memory_used(crew);
    SAYS(crew, many, "returned b''");
    SAYS(crew, "[len(host.echo(b'x' * 3000000)) for i in range(50)][0]", "returned 3000000");
    SAYS(crew, some, "returned b''");
    AWAIT(memory_used(crew) <=
          before + ((size_t)8 << 20)); /* what is kept for the next large one */
    pycrew_close(crew);
}

/* Whoever reads it next. */
TEST(the_memory_of_a_large_answer_is_there_again_when_it_was_read)
{
    pycrew_options options = test_options(1);
    void *memory = NULL;
    pycrew_crew *crew;

    options.memory = (size_t)32 << 20;
    options.calls = 64;
    crew = open_with(&options);
    OK(pycrew_export(crew, "echo", echo, NULL));
    SAYS(crew, "len(host.echo(b'x' * (6 << 20)))", "returned 6291456");
    AWAIT((memory = pycrew_alloc(crew, (size_t)24 << 20)) != NULL);
    pycrew_free(crew, memory);
    pycrew_close(crew);
}

TAP_MAIN
