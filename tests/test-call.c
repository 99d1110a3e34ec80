/* Single calls: their life, the functions they name, and all that can be wrong with a call: a clear
 * error, outputs as they were, and the crew works on. */
#include <limits.h>
#include <math.h>
#include <sys/syscall.h>

#include "tests/harness/crew.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The last failure of this thread: code, and parts of its texts; NULL where none is wanted. */
static void expect_error(const char *what, int code, const char *type, const char *message)
{
    const pycrew_error *e = pycrew_last_error();

    if (e->code != code)
        tap_fail("%s: code %d (%s), expected %d", what, e->code, e->message, code);
    if ((e->type == NULL) != (type == NULL) || (type != NULL && strcmp(e->type, type) != 0))
        tap_fail("%s: type %s, expected %s", what, e->type ? e->type : "NULL",
                 type ? type : "NULL");
    if (strstr(e->message, message) == NULL)
        tap_fail("%s: message \"%.600s\", without \"%s\"", what, e->message, message);
}

/* It works, and nothing of the last failure is left in it. */
static void expect_sound(pycrew_crew *crew)
{
    int sum = 0;

    OK(pycrew_run(crew, "api_ops:add", "ii>i", 3, 5, &sum));
    ASSERT_INT(sum, 8);
}

/* call_ops:value gives what the expression is. */
static pycrew_call *submit_value(pycrew_crew *crew, const char *expression)
{
    return SUBMIT(crew, "call_ops:value", "s", expression);
}

static pycrew_call *ended_value(pycrew_crew *crew, const char *expression)
{
    pycrew_call *call = submit_value(crew, expression);

    OK(pycrew_wait(call, BOUND));
    return call;
}

/* ---- the life of a call -----------------------------------------------------------------------
 */

TEST(a_call_goes_from_prepare_to_release)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = NULL;
    int64_t wide = 0;
    int sum = 0;

    OK(pycrew_prepare(crew, function_of(crew, "api_ops:add"), 0, &call));
    OK(pycrew_add(call, "i", 3));
    OK(pycrew_add_i64(call, 5));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_wait(call, 0)); /* as often as one likes */
    OK(pycrew_result(call, "i", &sum));
    ASSERT_INT(sum, 8);
    OK(pycrew_result_i64(call, &wide));
    ASSERT_INT(wide, 8);
    ASSERT(pycrew_call_error(call) == NULL);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(calls_in_flight_keep_their_results_apart)
{
    enum { CALLS = 500 };
    pycrew_crew *crew = open_crew(2);
    pycrew_call *calls[CALLS];
    int value;

    for (int i = 0; i < CALLS; i++)
        calls[i] = SUBMIT(crew, "api_ops:add", "ii", i, 1000);
    for (int i = CALLS - 1; i >= 0; i -= 2)
        OK(pycrew_wait(calls[i], BOUND));
    for (int i = 0; i < CALLS; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "i", &value));
        ASSERT_INT(value, i + 1000);
        pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

TEST(a_result_is_there_without_a_wait)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *returns = submit_value(crew, "5"), *raises = submit_value(crew, "1 / 0");
    int value = 0;

    AWAIT(pycrew_result(returns, "i", &value) != -EALREADY);
    ASSERT_INT(value, 5);
    AWAIT(pycrew_result(raises, "i", &value) != -EALREADY);
    expect_error("result", PYCREW_ERAISED, "ZeroDivisionError", "division by zero");
    pycrew_release(returns);
    pycrew_release(raises);
    pycrew_close(crew);
}

TEST(a_value_and_an_error_are_there_without_a_wait)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *returns = submit_value(crew, "5"), *raises = submit_value(crew, "1 / 0");

    AWAIT(pycrew_value_type(pycrew_result_value(returns)) == PYCREW_TYPE_INT);
    AWAIT(pycrew_call_error(raises) != NULL);
    ASSERT_STR(pycrew_call_error(raises)->type, "ZeroDivisionError");
    ASSERT_INT(pycrew_value_type(pycrew_result_value(raises)), PYCREW_TYPE_INVALID);
    ASSERT(pycrew_call_error(returns) == NULL);
    pycrew_release(returns);
    pycrew_release(raises);
    pycrew_close(crew);
}

TEST(data_is_the_callers_at_any_time)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:nothing");
    int a, b, c;

    ASSERT(pycrew_data(call) == NULL);
    pycrew_set_data(call, &a);
    ASSERT(pycrew_data(call) == &a);
    OK(pycrew_submit(call));
    ASSERT(pycrew_data(call) == &a);
    pycrew_set_data(call, &b);
    OK(pycrew_wait(call, BOUND));
    ASSERT(pycrew_data(call) == &b);
    pycrew_set_data(call, &c);
    ASSERT(pycrew_data(call) == &c);
    pycrew_release(call);
    for (int i = 0; i < 100; i++) { /* the next user of that call finds nothing of it */
        call = prepare(crew, "api_ops:nothing");
        ASSERT(pycrew_data(call) == NULL);
        pycrew_release(call);
    }
    pycrew_close(crew);
}

/* Each function that fills or sets a call. */
static int misuse_of(pycrew_call *call, int which)
{
    switch (which) {
    case 0:
        return pycrew_add(call, "i", 1);
    case 1:
        return pycrew_add_none(call);
    case 2:
        return pycrew_add_bool(call, true);
    case 3:
        return pycrew_add_i64(call, 1);
    case 4:
        return pycrew_add_u64(call, 1);
    case 5:
        return pycrew_add_f64(call, 1);
    case 6:
        return pycrew_add_bigint(call, "1");
    case 7:
        return pycrew_add_str(call, "x", 1);
    case 8:
        return pycrew_add_bytes(call, "x", 1);
    case 9:
        return pycrew_add_json(call, "1", 1);
    case 10:
        return pycrew_add_object(call, "N.", 2);
    case 11:
        return pycrew_add_name(call, "x");
    case 12:
        return pycrew_add_open(call, PYCREW_LIST);
    case 13:
        return pycrew_add_close(call);
    case 14:
        return pycrew_set_timeout(call, 1);
    case 15:
        return pycrew_set_retries(call, 1);
    case 16:
        return pycrew_set_json(call, true);
    case 17:
        return pycrew_set_queue(call, NULL);
    case 18:
        return pycrew_submit(call);
    default:
        return 0;
    }
}

static void nothing_fills(pycrew_call *call, const char *when)
{
    for (int i = 0; i <= 18; i++) {
        int rc = misuse_of(call, i);

        if (rc != -EALREADY)
            tap_fail("%s: function %d of misuse_of gives %d", when, i, rc);
        CONTAINS(pycrew_last_error()->message, "submitted already");
    }
}

TEST(a_submitted_call_is_not_filled_or_submitted_again)
{
    pycrew_crew *crew = open_crew(1);
    const char *go = scratch("go");
    pycrew_call *call = SUBMIT(crew, "api_ops:wait_for", "s", go);
    int value = 0;

    nothing_fills(call, "running");
    fclose(fopen(go, "w"));
    OK(pycrew_wait(call, BOUND));
    nothing_fills(call, "ended");
    OK(pycrew_result(call, "i", &value));
    ASSERT_INT(value, 1);
    pycrew_release(call);
    pycrew_close(crew);
}

/* All that needs an ended call. */
static void has_no_result(pycrew_call *call)
{
    const void *data = call;
    const char *text = "as it was";
    size_t size = 77;
    int64_t i = 77;
    uint64_t u = 77;
    double f = 77;
    bool b = false;
    int n = 77;

    GIVES(pycrew_result(call, "i", &n), -EALREADY);
    CONTAINS(pycrew_last_error()->message, "not ended");
    GIVES(pycrew_result(call, ""), -EALREADY);
    GIVES(pycrew_result_bool(call, &b), -EALREADY);
    GIVES(pycrew_result_i64(call, &i), -EALREADY);
    GIVES(pycrew_result_u64(call, &u), -EALREADY);
    GIVES(pycrew_result_f64(call, &f), -EALREADY);
    GIVES(pycrew_result_str(call, &text, &size), -EALREADY);
    GIVES(pycrew_result_bytes(call, &data, &size), -EALREADY);
    GIVES(pycrew_result_json(call, &text, &size), -EALREADY);
    ASSERT_INT(pycrew_value_type(pycrew_result_value(call)), PYCREW_TYPE_INVALID);
    ASSERT(pycrew_call_error(call) == NULL);
    ASSERT(n == 77 && !b && i == 77 && u == 77 && f == 77 && size == 77 && data == call);
    ASSERT_STR(text, "as it was");
}

TEST(before_its_end_a_call_has_no_result)
{
    pycrew_crew *crew = open_crew(1);
    const char *go = scratch("go");
    pycrew_call *call = prepare(crew, "api_ops:wait_for");

    has_no_result(call);
    OK(pycrew_add(call, "s", go));
    OK(pycrew_submit(call));
    has_no_result(call);
    GIVES(pycrew_wait(call, 0), -ETIME);
    GIVES(pycrew_wait(call, 5 * MS), -ETIME);
    has_no_result(call);
    fclose(fopen(go, "w"));
    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(wait_and_cancel_before_submit_are_errors_and_the_call_is_as_it_was)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:add");
    int sum = 0;

    OK(pycrew_add(call, "i", 3));
    GIVES(pycrew_wait(call, BOUND), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "not submitted");
    GIVES(pycrew_cancel(call), -EINVAL);
    OK(pycrew_add(call, "i", 5));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "i", &sum));
    ASSERT_INT(sum, 8);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(cancel_of_an_ended_call_says_that_it_has_ended)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *returned = ended_value(crew, "5"), *raised = submit_value(crew, "1 / 0");
    int value = 0;

    GIVES(pycrew_cancel(returned), -EALREADY);
    CONTAINS(pycrew_last_error()->message, "has ended");
    OK(pycrew_wait(returned, 0));
    OK(pycrew_result(returned, "i", &value));
    ASSERT_INT(value, 5);
    GIVES(pycrew_wait(raised, BOUND), PYCREW_ERAISED);
    GIVES(pycrew_cancel(raised), -EALREADY);
    GIVES(pycrew_wait(raised, 0), PYCREW_ERAISED);
    pycrew_release(returned);
    pycrew_release(raised);
    pycrew_close(crew);
}

TEST(release_takes_whatever_a_call_is)
{
    pycrew_crew *crew = open_crew(1);
    char large[3000] = {0};

    pycrew_release(NULL);
    for (int i = 0; i < 300; i++) { /* more than there is memory or calls for, if they were lost */
        pycrew_call *call = prepare(crew, "api_ops:echo");

        OK(pycrew_add(call, "y#", large, sizeof large));
        if (i % 3 == 0)
            OK(pycrew_add_open(call, PYCREW_DICT));
        if (i % 3 == 1)
            OK(pycrew_submit(call));
        if (i % 6 == 1)
            OK(pycrew_wait(call, BOUND));
        pycrew_release(call);
    }
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(a_call_that_waits_is_cancelled_by_its_release)
{
    pycrew_options options = test_options(1);
    const char *never = scratch("never");
    pycrew_crew *crew;

    options.calls = 1;
    crew = open_with(&options);
    pycrew_release(SUBMIT(crew, "api_ops:wait_for", "s", never));
    pycrew_release(prepare(crew, "api_ops:nothing")); /* there is one call, and it comes back */
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(pointers_to_nothing_are_refused)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *function = function_of(crew, "api_ops:nothing"), *none = NULL;
    pycrew_call *call = NULL;

    GIVES(pycrew_prepare(NULL, function, 0, &call), -EINVAL);
    GIVES(pycrew_prepare(crew, NULL, 0, &call), -EINVAL);
    GIVES(pycrew_prepare(crew, function, 0, NULL), -EINVAL);
    ASSERT(call == NULL);
    GIVES(pycrew_function_get(NULL, "a:b", &none), -EINVAL);
    GIVES(pycrew_function_get(crew, NULL, &none), -EINVAL);
    GIVES(pycrew_function_get(crew, "a:b", NULL), -EINVAL);
    GIVES(pycrew_function_source(crew, "f", NULL, &none), -EINVAL);
    GIVES(pycrew_function_source(crew, NULL, "", &none), -EINVAL);
    ASSERT(none == NULL);
    GIVES(pycrew_run(NULL, "api_ops:nothing", ">"), -EINVAL);
    GIVES(pycrew_run(crew, NULL, ">"), -EINVAL);
    GIVES(pycrew_run(crew, "api_ops:nothing", NULL), -EINVAL);
    GIVES(pycrew_run_within(crew, BOUND, "api_ops:nothing", NULL), -EINVAL);
    call = prepare(crew, "api_ops:nothing");
    GIVES(pycrew_add(call, NULL), -EINVAL);
    pycrew_release(call);
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(outputs_that_are_null_are_refused)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *number = ended_value(crew, "True"), *text = ended_value(crew, "'x'"),
                *bytes = ended_value(crew, "b'x'");
    pycrew_value value = pycrew_result_value(number);
    const char *at = NULL;
    size_t size;

    GIVES(pycrew_result(number, NULL), -EINVAL);
    GIVES(pycrew_result(number, "i", (int *)NULL), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "NULL");
    GIVES(pycrew_result(text, "s#", &at, (size_t *)NULL), -EINVAL);
    GIVES(pycrew_result(text, "s#", (char **)NULL, &size), -EINVAL);
    ASSERT(at == NULL);
    GIVES(pycrew_result_bool(number, NULL), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "NULL");
    GIVES(pycrew_result_i64(number, NULL), -EINVAL);
    GIVES(pycrew_result_u64(number, NULL), -EINVAL);
    GIVES(pycrew_result_f64(number, NULL), -EINVAL);
    GIVES(pycrew_result_str(text, NULL, &size), -EINVAL);
    GIVES(pycrew_result_bytes(bytes, NULL, &size), -EINVAL);
    GIVES(pycrew_result_json(text, NULL, &size), -EINVAL);
    GIVES(pycrew_value_bool(value, NULL), -EINVAL);
    GIVES(pycrew_value_i64(value, NULL), -EINVAL);
    GIVES(pycrew_value_u64(value, NULL), -EINVAL);
    GIVES(pycrew_value_f64(value, NULL), -EINVAL);
    GIVES(pycrew_value_str(pycrew_result_value(text), NULL, &size), -EINVAL);
    GIVES(pycrew_value_bytes(pycrew_result_value(bytes), NULL, &size), -EINVAL);
    ASSERT_INT(pycrew_value_type(pycrew_value_get(value, NULL)), PYCREW_TYPE_INVALID);
    pycrew_release(number);
    pycrew_release(text);
    pycrew_release(bytes);
    pycrew_close(crew);
}

/* ---- settings ---------------------------------------------------------------------------------
 */

static double seconds_left(pycrew_crew *crew, const int64_t *timeout_ns)
{
    pycrew_call *call = prepare(crew, "call_ops:seconds_left");
    double seconds = -1;

    if (timeout_ns != NULL)
        OK(pycrew_set_timeout(call, *timeout_ns));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    if (pycrew_value_type(pycrew_result_value(call)) != PYCREW_TYPE_NONE)
        OK(pycrew_result(call, "d", &seconds));
    pycrew_release(call);
    return seconds;
}

static bool is_about(double seconds, double limit)
{
    return seconds > limit / 2 && seconds <= limit;
}

TEST(a_call_sees_its_deadline)
{
    const int64_t forever = PYCREW_FOREVER, long_ns = 300 * SECOND, endless = INT64_MAX;
    pycrew_options options = test_options(1);
    double seconds = -1;
    pycrew_crew *crew = open_crew(1);

    ASSERT(seconds_left(crew, NULL) == -1);
    ASSERT(seconds_left(crew, &forever) == -1);
    ASSERT(is_about(seconds_left(crew, &long_ns), 300));
    ASSERT(seconds_left(crew, &endless) != 0); /* no overflow, so no deadline that has passed */
    OK(pycrew_run_within(crew, 100 * SECOND, "call_ops:seconds_left", ">d", &seconds));
    ASSERT(is_about(seconds, 100));
    pycrew_close(crew);

    options.timeout_ns = 600 * SECOND;
    crew = open_with(&options);
    ASSERT(is_about(seconds_left(crew, NULL), 600));
    ASSERT(is_about(seconds_left(crew, &long_ns), 300));
    ASSERT(seconds_left(crew, &forever) == -1);
    pycrew_close(crew);
}

TEST(a_call_sees_its_worker)
{
    enum { CALLS = 200 };
    pycrew_crew *crew = open_crew(2);
    int number = -1, other = -1, complete = 0;

    for (int i = 0; i < CALLS; i++) {
        OK(pycrew_run(crew, "call_ops:number_of_worker", ">i", &number));
        OK(pycrew_run(crew, "api_ops:worker", ">i", &other));
        ASSERT(number == 0 || number == 1);
        ASSERT(other == 0 || other == 1);
    }
    OK(pycrew_run(crew, "call_ops:is_pycrew_complete", ">p", &complete));
    ASSERT(complete);
    pycrew_close(crew);
}

TEST(a_timeout_of_a_call_ends_it_and_no_other)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:sleep");

    OK(pycrew_add(call, "d", 100.0));
    OK(pycrew_set_timeout(call, 100 * SECOND));
    OK(pycrew_set_timeout(call, 20 * MS)); /* the last one holds */
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), -ETIMEDOUT);
    pycrew_release(call);
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(retries_of_a_call_are_its_own)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:die_until");
    int ran = 0;

    OK(pycrew_add(call, "si", scratch("notes"), 2));
    OK(pycrew_set_retries(call, 2));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "i", &ran));
    ASSERT_INT(ran, 3);
    pycrew_release(call);
    GIVES(pycrew_run(crew, "api_ops:die_until", "si>", scratch("others"), 1), PYCREW_EDIED);
    pycrew_close(crew);
}

/* ---- functions --------------------------------------------------------------------------------
 */

TEST(a_malformed_function_name_is_refused_with_its_place)
{
    static const struct {
        const char *name, *says;
    } names[] = {
        {"", "ends where a module's name should follow"},
        {":", "byte 0: ':' where a module's name should stand"},
        {"math", "ends where ':' should follow"},
        {"math.", "ends where a module's name should follow"},
        {"math:", "ends where a name should follow"},
        {":sqrt", "byte 0: ':' where a module's name should stand"},
        {"math::sqrt", "byte 5: ':' where a name should stand"},
        {"math:sqrt:", "byte 9: ':' where a name should stand"},
        {"math:sqrt.", "ends where a name should follow"},
        {"math:.sqrt", "byte 5: '.' where a name should stand"},
        {"os..path:join", "byte 3: '.' where a module's name should stand"},
        {".path:join", "byte 0: '.' where a module's name should stand"},
        {"os.path.:join", "byte 8: ':' where a module's name should stand"},
        {"os.path:a..b", "byte 10: '.' where a name should stand"},
        {"my module:f", "byte 2: ' ' where ':' should stand"},
        {" math:sqrt", "byte 0: ' ' where a module's name should stand"},
        {"math:sqrt ", "byte 9: ' ' where a name should stand"},
        {"math:sqrt()", "byte 9: '(' where a name should stand"},
        {"2math:sqrt", "byte 0: '2' where a module's name should stand"},
        {"math:2sqrt", "byte 5: '2' where a name should stand"},
        {"math-2:sqrt", "byte 4: '-' where ':' should stand"},
        {"math/sqrt", "byte 4: '/' where ':' should stand"},
        {"math:\xff", "not UTF-8 at byte 5"},
        {"\xc3:f", "not UTF-8 at byte 0"},
    };
    pycrew_crew *crew = open_crew(1);

    for (size_t i = 0; i < COUNT(names); i++) {
        const pycrew_function *function = NULL;

        GIVES(pycrew_function_get(crew, names[i].name, &function), -EINVAL);
        expect_error(names[i].name, -EINVAL, NULL, names[i].says);
        ASSERT(function == NULL);
        GIVES(pycrew_run(crew, names[i].name, ">"), -EINVAL);
        expect_error(names[i].name, -EINVAL, NULL, names[i].says);
    }
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(a_function_name_may_be_long_but_not_endless)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *function = NULL;
    char name[4098];

    memset(name, 'm', sizeof name);
    name[4094] = ':';
    name[4097] = '\0';
    GIVES(pycrew_function_get(crew, name, &function), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "4097 bytes");
    name[4096] = '\0';
    GIVES(pycrew_run(crew, name, ">"), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ModuleNotFoundError");
    ASSERT_STR(pycrew_last_error()->function, name);
    pycrew_close(crew);
}

TEST(a_function_is_found_wherever_its_name_leads)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *one = function_of(crew, "api_ops:Thing.Inner.three");
    char *path = NULL;
    int value = 0;

    ASSERT(function_of(crew, "api_ops:Thing.Inner.three") == one);
    ASSERT(function_of(crew, "api_ops:Thing.Inner") != one);
    OK(pycrew_run(crew, "api_ops:Thing.Inner.three", ">i", &value));
    ASSERT_INT(value, 3);
    OK(pycrew_run(crew, "os.path:join", "ss>s", "a", "b", &path));
    ASSERT_STR(path, "a/b");
    free(path);
    OK(pycrew_run(crew, "builtins:abs", "i>i", -4, &value));
    ASSERT_INT(value, 4);
    OK(pycrew_run(crew, "builtins:int", "s base=i>i", "ff", 16, &value));
    ASSERT_INT(value, 255);
    pycrew_close(crew);
}

TEST(a_function_that_is_not_there_is_an_error_that_says_why)
{
    static const struct {
        const char *name, *type, *says;
    } names[] = {
        {"no_such_module:f", "ModuleNotFoundError", "no_such_module"},
        {"os.no_such:f", "ModuleNotFoundError", "os.no_such"},
        {"no_such.inner.module:f", "ModuleNotFoundError", "no_such"},
        {"math.sqrt:f", "ModuleNotFoundError", "'math' is not a package"},
        {"api_ops:no_such_function", "AttributeError", "no_such_function"},
        {"api_ops:Thing.nothing", "AttributeError", "nothing"},
        {"api_ops:Thing.Inner.nothing", "AttributeError", "nothing"},
        {"api_ops:nothing.of.it", "AttributeError", "of"},
        {"api_ops:NOT_CALLABLE", "TypeError", "api_ops:NOT_CALLABLE is not callable"},
        {"api_ops:Thing.__doc__", "TypeError", "is not callable: it is of type NoneType"},
        {"api_ops:\xc3\xa9t\xc3\xa9", "AttributeError", "\xc3\xa9t\xc3\xa9"},
        {"fails_at_import:f", "LookupError", "this module fails at import"},
    };
    pycrew_crew *crew = open_crew(1);
    int value = 77;

    for (size_t i = 0; i < COUNT(names); i++) {
        GIVES(pycrew_run(crew, names[i].name, "i>i", 1, &value), PYCREW_ERAISED);
        expect_error(names[i].name, PYCREW_ERAISED, names[i].type, names[i].says);
        ASSERT(!pycrew_last_error()->may_have_run);
        ASSERT_INT(pycrew_last_error()->attempts, 1);
        ASSERT_STR(pycrew_last_error()->function, names[i].name);
        CONTAINS(pycrew_last_error()->traceback, names[i].type);
    }
    ASSERT_INT(value, 77);
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(a_module_that_fails_at_import_is_tried_again_by_the_next_call)
{
    const char *flag = scratch("flag");
    char variable[200];
    const char *env[] = {variable, NULL};
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    int value = 0;

    snprintf(variable, sizeof variable, "TEST_MODULE_FLAG=%s", flag);
    options.env = env;
    crew = open_with(&options);
    for (int i = 0; i < 3; i++) {
        GIVES(pycrew_run(crew, "fails_at_first:answer", ">i", &value), PYCREW_ERAISED);
        expect_error("import", PYCREW_ERAISED, "LookupError", "the flag is not there yet");
        CONTAINS(pycrew_last_error()->traceback, "fails_at_first.py\", line 5");
        CONTAINS(pycrew_last_error()->traceback, "raise LookupError(");
    }
    fclose(fopen(flag, "w"));
    OK(pycrew_run(crew, "fails_at_first:answer", ">i", &value));
    ASSERT_INT(value, 42);
    pycrew_close(crew);
}

/* ---- functions from source --------------------------------------------------------------------
 */

static int run_source(pycrew_crew *crew, const char *name, const char *source, int *ret)
{
    const pycrew_function *function = NULL;
    pycrew_call *call = NULL;
    int rc;

    OK(pycrew_function_source(crew, name, source, &function));
    OK(pycrew_prepare(crew, function, BOUND, &call));
    OK(pycrew_submit(call));
    rc = pycrew_wait(call, BOUND);
    if (rc == 0)
        OK(pycrew_result(call, "i", ret));
    pycrew_release(call);
    return rc;
}

TEST(a_function_comes_from_source_text)
{
    static const char source[] = "state = 0\n"
                                 "def f():\n"
                                 "    global state\n"
                                 "    state += 1\n"
                                 "    return state\n"
                                 "class Box:\n"
                                 "    @staticmethod\n"
                                 "    def g(): return f() + 100\n";
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *one = NULL, *same = NULL;
    char copy[sizeof source];
    int value = 0;

    strcpy(copy, source); /* the text is copied */
    OK(pycrew_function_source(crew, "f", copy, &one));
    memset(copy, 'x', sizeof copy - 1);
    OK(pycrew_function_source(crew, "f", source, &same));
    ASSERT(one == same);
    for (int i = 1; i <= 3; i++) { /* one module, run once */
        OK(run_source(crew, "f", source, &value));
        ASSERT_INT(value, i);
    }
    OK(run_source(crew, "Box.g", source, &value)); /* another function, so a module of its own */
    ASSERT_INT(value, 101);
    pycrew_close(crew);
}

TEST(one_name_with_two_sources_is_two_functions)
{
    pycrew_crew *crew = open_crew(2);
    int value = 0;

    for (int i = 0; i < 50; i++) {
        OK(run_source(crew, "f", "def f(): return 1", &value));
        ASSERT_INT(value, 1);
        OK(run_source(crew, "f", "def f(): return 2", &value));
        ASSERT_INT(value, 2);
    }
    pycrew_close(crew);
}

TEST(what_is_wrong_with_a_source_is_shown_with_its_line)
{
    static const struct {
        const char *name, *source, *type, *message, *line;
        bool may_have_run;
    } sources[] = {
        {"f", "def f():\n    return (1 2\n\n", "SyntaxError", "", "    return (1 2", false},
        {"f", "def f():\n  return 1\n return 2\n", "IndentationError", "unindent", " return 2",
         false},
        {"f", "x = 1 / 0  # at the top\n", "ZeroDivisionError", "division",
         "x = 1 / 0  # at the top", false},
        {"f", "def f():\n    return {}['key']  # inside\n", "KeyError", "key",
         "return {}['key']  # inside", true},
        {"g", "def f(): return 1", "AttributeError", "g", "AttributeError", false},
        {"f", "f = 5", "TypeError", "f is not callable", "TypeError", false},
        {"f", "", "AttributeError", "f", "AttributeError", false},
        {"f", "import no_such_module  # here\n", "ModuleNotFoundError", "no_such_module",
         "import no_such_module  # here", false},
    };
    pycrew_crew *crew = open_crew(1);
    int value = 77;

    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < COUNT(sources); i++) {
            GIVES(run_source(crew, sources[i].name, sources[i].source, &value), PYCREW_ERAISED);
            expect_error(sources[i].source, PYCREW_ERAISED, sources[i].type, sources[i].message);
            CONTAINS(pycrew_last_error()->traceback, sources[i].line);
            ASSERT_INT(pycrew_last_error()->may_have_run, sources[i].may_have_run);
            ASSERT_STR(pycrew_last_error()->function, sources[i].name);
        }
    ASSERT_INT(value, 77);
    pycrew_close(crew);
}

TEST(two_sources_that_fail_show_their_own_lines)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *one = NULL, *two = NULL;
    int value;

    OK(pycrew_function_source(crew, "f", "def f():\n    return 1 / 0  # one\n", &one));
    OK(pycrew_function_source(crew, "f", "def f():\n    return 1 / 0  # two\n", &two));
    for (int i = 0; i < 3; i++) {
        GIVES(run_source(crew, "f", "def f():\n    return 1 / 0  # one\n", &value), PYCREW_ERAISED);
        CONTAINS(pycrew_last_error()->traceback, "# one");
        GIVES(run_source(crew, "f", "def f():\n    return 1 / 0  # two\n", &value), PYCREW_ERAISED);
        CONTAINS(pycrew_last_error()->traceback, "# two");
    }
    pycrew_close(crew);
}

TEST(a_malformed_name_of_a_sources_function_is_refused)
{
    static const struct {
        const char *name, *says;
    } names[] = {
        {"", "ends where a name should follow"},
        {"m:f", "byte 1: ':' where a name should stand"},
        {"f.", "ends where a name should follow"},
        {"f()", "byte 1: '(' where a name should stand"},
        {"1f", "byte 0: '1' where a name should stand"},
    };
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *function = NULL;

    for (size_t i = 0; i < COUNT(names); i++) {
        GIVES(pycrew_function_source(crew, names[i].name, "", &function), -EINVAL);
        expect_error(names[i].name, -EINVAL, NULL, names[i].says);
    }
    ASSERT(function == NULL);
    pycrew_close(crew);
}

/* ---- arguments that are wrong -----------------------------------------------------------------
 */

TEST(too_few_and_too_many_arguments_are_pythons_type_error)
{
    pycrew_crew *crew = open_crew(1);
    int value = 77;

    GIVES(pycrew_run(crew, "api_ops:add", "i>i", 1, &value), PYCREW_ERAISED);
    expect_error("one", PYCREW_ERAISED, "TypeError", "missing 1 required positional argument: 'b'");
    ASSERT(pycrew_last_error()->may_have_run); /* only Python knows whether it was entered */
    GIVES(pycrew_run(crew, "api_ops:add", ">i", &value), PYCREW_ERAISED);
    expect_error("none", PYCREW_ERAISED, "TypeError", "missing 2 required positional arguments");
    GIVES(pycrew_run(crew, "api_ops:add", "iii>i", 1, 2, 3, &value), PYCREW_ERAISED);
    expect_error("three", PYCREW_ERAISED, "TypeError",
                 "takes 2 positional arguments but 3 were given");
    GIVES(pycrew_run(crew, "api_ops:add", "ii c=i>i", 1, 2, 3, &value), PYCREW_ERAISED);
    expect_error("keyword", PYCREW_ERAISED, "TypeError", "unexpected keyword argument 'c'");
    GIVES(pycrew_run(crew, "api_ops:add", "ii b=i>i", 1, 2, 3, &value), PYCREW_ERAISED);
    expect_error("twice", PYCREW_ERAISED, "TypeError", "multiple values for argument 'b'");
    GIVES(pycrew_run(crew, "math:sqrt", "ii>i", 1, 2, &value), PYCREW_ERAISED);
    expect_error("builtin", PYCREW_ERAISED, "TypeError", "takes exactly one argument (2 given)");
    ASSERT_INT(value, 77);
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(a_wrong_format_is_refused_with_the_byte)
{
    static const struct {
        const char *format;
        int byte; /* -1: right */
        const char *says;
    } formats[] = {
        {"x", 0, "'x' is no unit"},
        {"iq", 1, "'q' is no unit"},
        {"i%", 1, "'%' is no unit"},
        {"i\t", 1, "'\\x09' is no unit"},
        {"i\xc3\xa9", 1, "'\\xc3' is no unit"},
        {"i#", 1, "'#' can only stand behind s, y, z and j"},
        {"y", 0, "'y' needs a '#' behind it"},
        {"iy", 1, "'y' needs a '#' behind it"},
        {"=i", 0, "'=' has no keyword before it"},
        {"i =i", 2, "'=' has no keyword before it"},
        {"i )", 2, "closes a bracket that is not open"},
        {"(i]", 2, "closes a bracket of another kind"},
        {"[i", 0, "the bracket is not closed"},
        {"i{i[i]", 1, "the bracket is not closed"},
        {"{i}", 2, "the dict's last key has no value"},
        {"a=i i", 4, "a value without a keyword"},
        {"a= b=i", 3, "'a' has no value before the next keyword"},
        {"i a=", 2, "the keyword has no value"},
        {"[a=i]", 1, "a keyword cannot stand in a list"},
        {"i>q", 2, "'q' is no unit"},
        {"i>i>i", 3, "'>' can stand only once"},
        {"i>(i", 2, "the bracket is not closed"},
        {"i>i)", 3, "closes a bracket that is not open"},
        {"i>{i}", 4, "the dict's last key has no value"},
        {"i>ij", 3, "'j' must be the only unit of a result"},
        {"i>[j]", 3, "'j' must be the only unit of a result"},
        {"i>y", 2, "'y' needs a '#'"},
        {"i>a=i", 2, "'a' is no unit"},
    };
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call;
    char place[32];

    for (size_t i = 0; i < COUNT(formats); i++) {
        snprintf(place, sizeof place, ": byte %d: ", formats[i].byte);
        GIVES(pycrew_run(crew, "api_ops:echo", formats[i].format, 1, 2, 3, 4), -EINVAL);
        expect_error(formats[i].format, -EINVAL, NULL, place);
        expect_error(formats[i].format, -EINVAL, NULL, formats[i].says);
        call = prepare(crew, "api_ops:echo");
        GIVES(pycrew_add(call, formats[i].format, 1, 2, 3, 4), -EINVAL);
        expect_error(formats[i].format, -EINVAL, NULL, place);
        GIVES(pycrew_submit(call), -EINVAL);
        GIVES(pycrew_wait(call, 0), -EINVAL);
        pycrew_release(call);
    }
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(a_wrong_format_of_a_result_is_refused_and_the_result_is_still_there)
{
    static const char *const formats[] = {"q", "i#", "y", "(i", "i)", "i>i", "a=i", "{i}", ">>i"};
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = ended_value(crew, "5");
    int value = 77;

    for (size_t i = 0; i < COUNT(formats); i++) {
        GIVES(pycrew_result(call, formats[i], &value, &value, &value), -EINVAL);
        CONTAINS(pycrew_last_error()->message, "byte ");
        ASSERT_INT(value, 77);
    }
    OK(pycrew_result(call, " > i ", &value));
    ASSERT_INT(value, 5);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_text_that_is_not_utf8_is_refused)
{
    static const struct {
        const char *text;
        int byte;
    } texts[] = {
        {"\xff", 0},
        {"abc\x80", 3},
        {"\xc3", 0},
        {"\xc0\xaf", 0},
        {"\xed\xa0\x80", 0} /* a surrogate */,
        {"\xf4\x90\x80\x80", 0},
        {"\xc3\xa9\xe2\x82", 2},
    };
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call;
    char place[32];

    for (size_t i = 0; i < COUNT(texts); i++) {
        snprintf(place, sizeof place, "not UTF-8: byte %d is", texts[i].byte);
        GIVES(pycrew_run(crew, "api_ops:echo", "s>", texts[i].text), -EINVAL);
        expect_error("s", -EINVAL, NULL, place);
        expect_error("s", -EINVAL, NULL, "byte 0: argument 1");
        GIVES(pycrew_run(crew, "api_ops:echo", "z#>", texts[i].text, strlen(texts[i].text)),
              -EINVAL);
        expect_error("z#", -EINVAL, NULL, place);
        GIVES(pycrew_run(crew, "api_ops:echo", "j>", texts[i].text), -EINVAL);
        expect_error("j", -EINVAL, NULL, place);
        call = prepare(crew, "api_ops:arguments");
        OK(pycrew_add_none(call));
        GIVES(pycrew_add_str(call, texts[i].text, strlen(texts[i].text)), -EINVAL);
        expect_error("add_str", -EINVAL, NULL, "argument 2: ");
        GIVES(pycrew_add_none(call), -EINVAL);
        expect_error("after", -EINVAL, NULL, "an earlier argument failed: only release is left");
        GIVES(pycrew_submit(call), -EINVAL);
        pycrew_release(call);
        call = prepare(crew, "api_ops:arguments");
        GIVES(pycrew_add_name(call, texts[i].text), -EINVAL);
        expect_error("add_name", -EINVAL, NULL, place);
        pycrew_release(call);
    }
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(arguments_that_point_nowhere_are_refused)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call;

    GIVES(pycrew_run(crew, "api_ops:echo", "s>", (char *)NULL), -EINVAL);
    expect_error("s", -EINVAL, NULL, "the pointer is NULL; the unit z would make it None");
    GIVES(pycrew_run(crew, "api_ops:echo", "j>", (char *)NULL), -EINVAL);
    GIVES(pycrew_run(crew, "api_ops:echo", "y#>", (char *)NULL, (size_t)3), -EINVAL);
    expect_error("y#", -EINVAL, NULL, "the pointer is NULL and the size 3");
    GIVES(pycrew_run(crew, "api_ops:echo", "y#>", "abc", (size_t)-3), -EINVAL);
    expect_error("y#", -EINVAL, NULL, "the size is -3");
    for (int i = 0; i < 6; i++) {
        int rc;

        call = prepare(crew, "api_ops:echo");
        switch (i) {
        case 0:
            rc = pycrew_add_str(call, NULL, 1);
            break;
        case 1:
            rc = pycrew_add_bytes(call, NULL, 1);
            break;
        case 2:
            rc = pycrew_add_json(call, NULL, 1);
            break;
        case 3:
            rc = pycrew_add_object(call, NULL, 1);
            break;
        case 4:
            rc = pycrew_add_name(call, NULL);
            break;
        default:
            rc = pycrew_add_bigint(call, NULL);
            break;
        }
        GIVES(rc, -EINVAL);
        pycrew_release(call);
    }
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(json_that_does_not_parse_is_refused_with_its_place)
{
    static const struct {
        const char *text, *says;
    } texts[] = {
        {"", "line 1 column 1 (char 0)"},
        {"{", "line 1 column 2 (char 1)"},
        {"[1,\n2,,3]", "line 2 column 3"},
        {"{'a': 1}", "property name enclosed in double quotes"},
        {"1 2", "Extra data"},
        {"\"a", "Unterminated string"},
        {"nul", "Expecting value"},
    };
    char digits[5000] = "";
    pycrew_crew *crew = open_crew(1);
    int value = 77;

    for (size_t i = 0; i < COUNT(texts); i++) {
        GIVES(pycrew_run(crew, "api_ops:echo", "j>i", texts[i].text, &value), -EINVAL);
        expect_error(texts[i].text, -EINVAL, "json.decoder.JSONDecodeError", texts[i].says);
        ASSERT(!pycrew_last_error()->may_have_run);
        ASSERT_STR(pycrew_last_error()->function, "api_ops:echo");
    }
    memset(digits, '7', sizeof digits - 1);
    GIVES(pycrew_run(crew, "api_ops:echo", "j>i", digits, &value), -EINVAL);
    expect_error("digits", -EINVAL, "ValueError", "Exceeds the limit");
    ASSERT_INT(value, 77);
    GIVES(pycrew_run(crew, "json:loads", "s>", "{"), PYCREW_ERAISED); /* the function's own */
    expect_error("own", PYCREW_ERAISED, "json.decoder.JSONDecodeError", "line 1");
    ASSERT(pycrew_last_error()->may_have_run);
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(a_pickle_that_does_not_load_is_an_error_and_the_function_did_not_run)
{
    static const struct {
        const char *pickle, *type;
    } pickles[] = {
        {"", "EOFError"},
        {"garbage", "_pickle.UnpicklingError"},
        {"cno_such_module\nf\n.", "ModuleNotFoundError"},
        {"cos\nno_such_name\n.", "AttributeError"},
        {"cbuiltins\nint\n(S'x'\ntR.", "ValueError"},
        {"cjson\nloads\n(S'{'\ntR.", "json.decoder.JSONDecodeError"},
    };
    pycrew_crew *crew = open_crew(1);

    for (size_t i = 0; i < COUNT(pickles); i++) {
        GIVES(pycrew_run(crew, "api_ops:echo", "O>", pickles[i].pickle, strlen(pickles[i].pickle)),
              PYCREW_ERAISED);
        expect_error(pickles[i].pickle, PYCREW_ERAISED, pickles[i].type, "");
        ASSERT(!pycrew_last_error()->may_have_run);
    }
    expect_sound(crew);
    pycrew_close(crew);
}

/* ---- the structure of arguments ----------------------------------------------------------------
 */

TEST(structure_that_is_wrong_is_refused_and_says_so)
{
    pycrew_crew *crew = open_crew(1);

    for (int i = 0; i < 10; i++) {
        pycrew_call *call = prepare(crew, "api_ops:arguments");
        const char *says = NULL;
        int rc = 0;

        switch (i) {
        case 0:
            rc = pycrew_add_close(call);
            says = "no open list, tuple or dict to close";
            break;
        case 1:
            rc = pycrew_add_open(call, 0);
            says = "0 is no kind of container";
            break;
        case 2:
            OK(pycrew_add_open(call, PYCREW_DICT));
            OK(pycrew_add_i64(call, 1));
            rc = pycrew_add_close(call);
            says = "the dict's last key has no value";
            break;
        case 3:
            OK(pycrew_add_open(call, PYCREW_TUPLE));
            rc = pycrew_submit(call);
            says = "a tuple is not closed";
            break;
        case 4:
            OK(pycrew_add_name(call, "key"));
            rc = pycrew_submit(call);
            says = "the keyword 'key' has no value";
            break;
        case 5:
            OK(pycrew_add_name(call, "key"));
            rc = pycrew_add_name(call, "other");
            says = "the keyword 'key' has no value before the next keyword";
            break;
        case 6:
            OK(pycrew_add_name(call, "key"));
            OK(pycrew_add_none(call));
            rc = pycrew_add_none(call);
            says = "a value without a keyword, behind one with a keyword";
            break;
        case 7:
            OK(pycrew_add_open(call, PYCREW_LIST));
            rc = pycrew_add_name(call, "key");
            says = "a keyword cannot stand in a list, tuple or dict";
            break;
        case 8:
            rc = pycrew_add_name(call, "");
            says = "the keyword is empty";
            break;
        case 9: /* a format does not close what was open before it */
            OK(pycrew_add_open(call, PYCREW_LIST));
            rc = pycrew_add(call, "i]", 1);
            says = "closes a bracket that is not open";
            break;
        }
        GIVES(rc, -EINVAL);
        expect_error(says, -EINVAL, NULL, says);
        GIVES(pycrew_submit(call), -EINVAL);
        pycrew_release(call);
    }
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(a_keyword_that_comes_twice_is_a_type_error)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:arguments");

    GIVES(pycrew_run(crew, "api_ops:arguments", "a=i b=i a=i>", 1, 2, 3), PYCREW_ERAISED);
    expect_error("format", PYCREW_ERAISED, "TypeError", "multiple values for keyword argument 'a'");
    ASSERT(!pycrew_last_error()->may_have_run);
    OK(pycrew_add_name(call, "a"));
    OK(pycrew_add_none(call));
    OK(pycrew_add_name(call, "a"));
    OK(pycrew_add_none(call));
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), PYCREW_ERAISED);
    expect_error("names", PYCREW_ERAISED, "TypeError", "multiple values for keyword argument 'a'");
    pycrew_release(call);
    expect_sound(crew);
    pycrew_close(crew);
}

/* ---- results that are not what was asked for ----------------------------------------------------
 */

typedef struct outputs {
    unsigned char at[6][16];
} outputs;

static outputs *untouched(outputs *out)
{
    memset(out, 0xaa, sizeof *out);
    return out;
}

static void expect_untouched(const outputs *out, const char *expression)
{
    outputs before;

    if (memcmp(out, untouched(&before), sizeof before) != 0)
        tap_fail("%s: an output was touched", expression);
}

#define OUTPUTS(out)                                                                               \
    (void *)(out)->at[0], (void *)(out)->at[1], (void *)(out)->at[2], (void *)(out)->at[3],        \
        (void *)(out)->at[4], (void *)(out)->at[5]

static const struct {
    const char *expression, *format;
    int code;
    const char *says;
} refused[] = {
    {"5", "s", PYCREW_ETYPE, "result: expected str, got int"},
    {"5", "p", PYCREW_ETYPE, "result: expected bool, got int"},
    {"5", "z", PYCREW_ETYPE, "result: expected str or None, got int"},
    {"5", "y#", PYCREW_ETYPE, "result: expected bytes, got int"},
    {"5", "O", PYCREW_ETYPE, "result: expected a pickled object, got int"},
    {"'5'", "i", PYCREW_ETYPE, "result: expected int, got str"},
    {"'5'", "y#", PYCREW_ETYPE, "result: expected bytes, got str"},
    {"b'5'", "s", PYCREW_ETYPE, "result: expected str, got bytes"},
    {"5.0", "i", PYCREW_ETYPE, "result: expected int, got float"},
    {"5.0", "L", PYCREW_ETYPE, "result: expected int, got float"},
    {"5.0", "K", PYCREW_ETYPE, "result: expected int, got float"},
    {"5.0", "n", PYCREW_ETYPE, "result: expected int, got float"},
    {"'5.0'", "d", PYCREW_ETYPE, "result: expected float, got str"},
    {"None", "i", PYCREW_ETYPE, "result: expected int, got None"},
    {"None", "s", PYCREW_ETYPE, "result: expected str, got None"},
    {"None", "p", PYCREW_ETYPE, "result: expected bool, got None"},
    {"None", "f", PYCREW_ETYPE, "result: expected float, got None"},
    {"{1}", "i", PYCREW_ETYPE, "result: expected int, got a pickled object"},
    {"[5]", "i", PYCREW_ETYPE, "result: expected int, got list"},
    {"5", "ii", PYCREW_ETYPE, "result: expected list or tuple of 2, got int"},
    {"[1, 2, 3]", "ii", PYCREW_ETYPE, "result: expected list or tuple of 2, got list of 3"},
    {"[1]", "ii", PYCREW_ETYPE, "result: expected list or tuple of 2, got list of 1"},
    {"(1, 2)", "[ii]", PYCREW_ETYPE, "result: expected list of 2, got tuple of 2"},
    {"[1, 2]", "(ii)", PYCREW_ETYPE, "result: expected tuple of 2, got list of 2"},
    {"{1: 2}", "{iiii}", PYCREW_ETYPE, "result: expected dict of 2 pairs, got dict of 1"},
    {"[]", "(i)", PYCREW_ETYPE, "result: expected tuple of 1, got list of 0"},
    {"[1, 2, 'x']", "iii", PYCREW_ETYPE, "result item 3: expected int, got str"},
    {"[1, [2, None]]", "i[ii]", PYCREW_ETYPE, "item 2"},
    {"{'a': 1, 'b': 'c'}", "{sisi}", PYCREW_ETYPE, "value of key 2"},
    {"{'a': 1, 2: 3}", "{sisi}", PYCREW_ETYPE, "key 2"},
    {"2**31", "i", -ERANGE, "result: 2147483648 is out of range for int"},
    {"-2**31 - 1", "i", -ERANGE, "result: -2147483649 is out of range for int"},
    {"2**64", "i", -ERANGE, "out of range for int"},
    {"2**63", "L", -ERANGE, "result: 9223372036854775808 is out of range for long long"},
    {"-2**63 - 1", "L", -ERANGE, "out of range for long long"},
    {"2**70000", "L", -ERANGE, "an int of 17501 hexadecimal digits is out of range for long long"},
    {"2**63", "n", -ERANGE, "out of range for ptrdiff_t"},
    {"-2**63 - 1", "n", -ERANGE, "out of range for ptrdiff_t"},
    {"-1", "K", -ERANGE, "result: -1 is out of range for unsigned long long"},
    {"2**64", "K", -ERANGE, "out of range for unsigned long long"},
    {"-2**70", "K", -ERANGE, "out of range for unsigned long long"},
    {"1e39", "f", -ERANGE, "result: 1e+39 is out of range for float"},
    {"-1e39", "f", -ERANGE, "result: -1e+39 is out of range for float"},
    {"2**128", "f", -ERANGE, "out of range for float"},
    {"2**1024", "d", -ERANGE, "out of range for double"},
    {"-2**70000", "d", -ERANGE, "out of range for double"},
    {"[0, 1, 2**40]", "iii", -ERANGE, "result item 3: 1099511627776 is out of range for int"},
    {"'a\\0b'", "s", -EINVAL, "result: the str has a NUL inside, so its size must be asked for"},
    {"'a\\0b'", "z", -EINVAL, "result: the str has a NUL inside"},
    {"['x', 'y', '\\0']", "sss", -EINVAL, "result item 3: the str has a NUL inside"},
};

TEST(a_result_that_is_not_what_was_asked_for_is_refused_and_outputs_are_untouched)
{
    pycrew_crew *crew = open_crew(1);
    char format[32];
    outputs out;

    for (size_t i = 0; i < COUNT(refused); i++) {
        const char *expression = refused[i].expression;
        pycrew_call *call = ended_value(crew, expression);

        for (int arrow = 0; arrow < 2; arrow++) {
            snprintf(format, sizeof format, "%s%s", arrow ? ">" : "", refused[i].format);
            untouched(&out);
            GIVES(pycrew_result(call, format, OUTPUTS(&out)), refused[i].code);
            expect_error(expression, refused[i].code, NULL, refused[i].says);
            expect_untouched(&out, expression);
        }
        OK(pycrew_wait(call, 0)); /* the call has returned all the same */
        ASSERT(pycrew_call_error(call) == NULL);
        pycrew_release(call);
        snprintf(format, sizeof format, "s>%s", refused[i].format);
        GIVES(pycrew_run(crew, "call_ops:value", format, expression, OUTPUTS(&out)),
              refused[i].code);
        expect_error(expression, refused[i].code, NULL, refused[i].says);
        expect_untouched(&out, expression);
    }
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(a_result_by_type_is_refused_by_the_same_rules)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *wide = ended_value(crew, "2**63"), *negative = ended_value(crew, "-1"),
                *text = ended_value(crew, "'a\\0b'"), *huge = ended_value(crew, "2**1024");
    const char *s = "as it was";
    const void *data = wide;
    size_t size = 77;
    int64_t i = 77;
    uint64_t u = 77;
    double f = 77;
    bool b = true;

    GIVES(pycrew_result_i64(wide, &i), -ERANGE);
    GIVES(pycrew_result_u64(negative, &u), -ERANGE);
    GIVES(pycrew_result_i64(huge, &i), -ERANGE);
    GIVES(pycrew_result_u64(huge, &u), -ERANGE);
    GIVES(pycrew_result_f64(huge, &f), -ERANGE);
    GIVES(pycrew_result_bool(wide, &b), PYCREW_ETYPE);
    GIVES(pycrew_result_i64(text, &i), PYCREW_ETYPE);
    GIVES(pycrew_result_u64(text, &u), PYCREW_ETYPE);
    GIVES(pycrew_result_f64(text, &f), PYCREW_ETYPE);
    GIVES(pycrew_result_bytes(text, &data, &size), PYCREW_ETYPE);
    GIVES(pycrew_result_json(text, &s, &size), PYCREW_ETYPE);
    GIVES(pycrew_result_str(wide, &s, &size), PYCREW_ETYPE);
    GIVES(pycrew_result_str(text, &s, NULL), -EINVAL); /* a NUL inside, and no size to tell it by */
    ASSERT(i == 77 && u == 77 && f == 77 && b && size == 77 && data == wide);
    ASSERT_STR(s, "as it was");
    OK(pycrew_result_str(text, &s, &size));
    ASSERT_INT(size, 3);
    ASSERT_MEM(s, "a\0b", 4);
    OK(pycrew_result_u64(wide, &u));
    ASSERT(u == (uint64_t)1 << 63);
    pycrew_release(wide);
    pycrew_release(negative);
    pycrew_release(text);
    pycrew_release(huge);
    pycrew_close(crew);
}

TEST(a_result_with_a_lone_surrogate_is_of_no_type_there_is)
{
    static const char *const expressions[] = {"'\\ud800'", "['x', 'a\\udfffb']", "{'\\udc80': 1}"};
    pycrew_crew *crew = open_crew(1);
    char *text = NULL;
    size_t size = 77;

    for (size_t i = 0; i < COUNT(expressions); i++) {
        GIVES(pycrew_run(crew, "call_ops:value", "s>s#", expressions[i], &text, &size),
              PYCREW_ETYPE);
        expect_error(expressions[i], PYCREW_ETYPE, "UnicodeEncodeError", "surrogates not allowed");
        ASSERT(pycrew_last_error()->may_have_run);
        GIVES(pycrew_run(crew, "call_ops:value", "s>", expressions[i]), PYCREW_ETYPE);
        GIVES(pycrew_run(crew, "call_ops:value", "s>j", expressions[i], &text), PYCREW_ETYPE);
    }
    GIVES(pycrew_run(crew, "call_ops:value", "s>", "'\\ud800'.encode()"), PYCREW_ERAISED);
    expect_error("the function's own", PYCREW_ERAISED, "UnicodeEncodeError",
                 "surrogates not allowed");
    ASSERT(text == NULL && size == 77);
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(a_result_that_cannot_be_sent_is_an_error_that_says_why)
{
    static const struct {
        const char *expression, *type, *says;
    } results[] = {
        {"lambda: None", "TypeError", "cannot pickle 'function' object"},
        {"threading.Lock()", "TypeError", "cannot pickle '_thread.lock' object"},
        {"[1, (2, threading.Lock())]", "TypeError", "cannot pickle"},
        {"(i for i in 'ab')", "TypeError", "cannot pickle 'generator' object"},
        {"open('/dev/null')", "TypeError", "cannot pickle"},
        {"__import__('api_ops').self_containing()", "ValueError", "nested deeper than 500"},
        {"__import__('api_ops').nested(501)", "ValueError", "nested deeper than 500"},
        {"__import__('api_ops').nested(10000)", "ValueError", "nested deeper than 500"},
    };
    pycrew_crew *crew = open_crew(1);
    int before = 0, after = 0;

    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    for (size_t i = 0; i < COUNT(results); i++) {
        GIVES(pycrew_run(crew, "call_ops:value", "s>", results[i].expression), PYCREW_ERAISED);
        expect_error(results[i].expression, PYCREW_ERAISED, results[i].type, results[i].says);
        ASSERT(pycrew_last_error()->may_have_run);
    }
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT_INT(after, before);
    pycrew_close(crew);
}

TEST(nesting_without_end_is_refused_on_the_way_in)
{
    enum { DEEP = 10000, DEEPEST = 500 };
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:nested_depth");
    char *text = malloc(2 * DEEP + 1);
    int depth = 0, rc;

    while ((rc = pycrew_add_open(call, PYCREW_LIST)) == 0)
        depth++;
    GIVES(rc, -EINVAL);
    expect_error("open", -EINVAL, NULL, "nested deeper than 500");
    ASSERT_INT(depth, DEEPEST);
    pycrew_release(call);
    memset(text, '[', DEEP);
    memset(text + DEEP, ']', DEEP);
    text[2 * DEEP] = '\0';
    GIVES(pycrew_run(crew, "api_ops:nested_depth", text), -EINVAL);
    expect_error("format", -EINVAL, NULL, "nested deeper than 500");
    GIVES(pycrew_run(crew, "api_ops:nested_depth", "j>", text), -EINVAL);
    expect_error("json", -EINVAL, "RecursionError", "maximum recursion depth");
    ASSERT(!pycrew_last_error()->may_have_run);
    GIVES(pycrew_run(crew, "api_ops:nested", "i>j", DEEP, &text), PYCREW_ERAISED);
    expect_error("json result", PYCREW_ERAISED, "RecursionError", "maximum recursion depth");
    free(text);

    call = prepare(crew, "api_ops:nested_depth");
    for (int i = 0; i < DEEPEST; i++)
        OK(pycrew_add_open(call, PYCREW_LIST));
    for (int i = 0; i < DEEPEST; i++)
        OK(pycrew_add_close(call));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "i", &depth));
    ASSERT_INT(depth, DEEPEST - 1); /* the innermost is empty, and counts as its end */
    pycrew_release(call);
    pycrew_close(crew);
}

/* ---- memory and calls that are used up ----------------------------------------------------------
 */

static pycrew_crew *open_small(unsigned calls)
{
    pycrew_options options = test_options(1);

    options.memory = 16 << 20;
    options.calls = calls;
    return open_with(&options);
}

TEST(an_argument_larger_than_the_memory_cap_is_too_big)
{
    size_t size = 40 << 20;
    char *large = calloc(1, size);
    pycrew_crew *crew = open_small(16);
    pycrew_call *call = prepare(crew, "api_ops:length");

    GIVES(pycrew_run(crew, "api_ops:length", "y#>", large, size), -E2BIG);
    CONTAINS(pycrew_last_error()->message, "exceed the crew's shared memory");
    GIVES(pycrew_run(crew, "api_ops:length", "s#>", large, size), -E2BIG);
    OK(pycrew_add(call, "i", 5));
    GIVES(pycrew_add_bytes(call, large, size), -E2BIG);
    GIVES(pycrew_add_none(call), -E2BIG);
    GIVES(pycrew_submit(call), -E2BIG);
    pycrew_release(call);
    expect_sound(crew);
    pycrew_close(crew);
    free(large);
}

static char large[1000000];

/* A prepared call with a large argument. */
static int take_arguments(pycrew_crew *crew, pycrew_call **ret)
{
    int rc;

    *ret = prepare(crew, "api_ops:length");
    rc = pycrew_add(*ret, "y#", large, sizeof large);
    if (rc == 0)
        return 0;
    GIVES(rc, -ENOMEM);
    expect_error("add", -ENOMEM, NULL, "no shared memory is left");
    GIVES(pycrew_submit(*ret), -ENOMEM);
    return rc;
}

/* An ended call with a large result. */
static int take_result(pycrew_crew *crew, pycrew_call **ret)
{
    const void *data;
    size_t size;
    int rc;

    *ret = SUBMIT(crew, "api_ops:zeros", "i", 1000000);
    rc = pycrew_wait(*ret, BOUND);
    if (rc < 0) {
        expect_error("zeros", -ENOMEM, NULL, "no shared memory is left for the result");
        ASSERT(pycrew_last_error()->may_have_run);
        ASSERT_STR(pycrew_last_error()->function, "api_ops:zeros");
        return rc;
    }
    OK(pycrew_result_bytes(*ret, &data, &size));
    ASSERT_INT(size, 1000000);
    return 0;
}

/* Takes until there is no memory for one more, which is the last. The first of them must get
 * theirs, if not at the first try: who keeps some is asked for it, and may need a while. */
static int use_up(pycrew_crew *crew, int take(pycrew_crew *, pycrew_call **), pycrew_call **calls,
                  int max, int least)
{
    for (int count = 0; count < max; count++) {
        int rc = take(crew, &calls[count]);

        if (count < least)
            AWAIT(rc == 0 || (pycrew_release(calls[count]), (rc = take(crew, &calls[count])) == 0));
        if (rc < 0)
            return count + 1;
    }
    tap_fail("there was memory for %d calls", max);
}

/* What one side has used and given back is there for the other. */
TEST(memory_that_was_used_up_is_there_again_after_a_release)
{
    enum { CALLS = 32, ROUNDS = 6 };
    pycrew_crew *crew = open_small(CALLS);
    pycrew_call *calls[CALLS];
    int least = 6, rc;

    for (int round = 0; round < ROUNDS; round++) {
        bool arguments = round % 2 == 0;
        int count = use_up(crew, arguments ? take_arguments : take_result, calls, CALLS, least);

        DIAG("%s: %d calls", arguments ? "arguments" : "results", count);
        if (round == 0)
            least = count - 3; /* a span of small blocks may be the other's */
        expect_sound(crew);    /* small calls need none */
        pycrew_release(calls[--count]);
        pycrew_release(calls[--count]);
        AWAIT((rc = pycrew_run(crew, "api_ops:length", "y#>", large, sizeof large)) != -ENOMEM);
        OK(rc);
        while (count > 0)
            pycrew_release(calls[--count]);
    }
    pycrew_close(crew);
}

/* Arguments of every size, so that the host keeps memory for all of them. */
TEST(memory_that_the_host_keeps_leaves_most_of_it_for_results)
{
    enum { CALLS = 32 };
    pycrew_crew *crew = open_small(CALLS);
    pycrew_call *calls[CALLS];

    for (size_t size = 100; size <= sizeof large; size = size * 3 / 2)
        OK(pycrew_run(crew, "api_ops:length", "y#>", large, size));
    for (int count = use_up(crew, take_result, calls, CALLS, 7); count > 0;)
        pycrew_release(calls[--count]);
    pycrew_close(crew);
}

/* Results of every size, so that each worker keeps memory for all of them. */
TEST(memory_that_idle_workers_keep_is_given_to_who_needs_it)
{
    enum { WORKERS = 4, CALLS = 70 };
    pycrew_options options = test_options(WORKERS);
    pycrew_call *calls[CALLS];
    pycrew_crew *crew;

    options.memory = 64 << 20;
    options.calls = CALLS;
    crew = open_with(&options);
    for (size_t size = 100; size <= sizeof large; size = size * 3 / 2) {
        for (int i = 0; i < WORKERS; i++)
            calls[i] = SUBMIT(crew, "call_ops:zeros_slowly", "n", (ptrdiff_t)size);
        for (int i = 0; i < WORKERS; i++) {
            OK(pycrew_wait(calls[i], BOUND));
            pycrew_release(calls[i]);
        }
    }
    for (int count = use_up(crew, take_result, calls, CALLS, 50); count > 0;)
        pycrew_release(calls[--count]);
    pycrew_close(crew);
}

TEST(a_result_larger_than_the_memory_is_too_big)
{
    pycrew_crew *crew = open_small(16);
    void *data = NULL;
    size_t size = 77;

    for (int i = 0; i < 3; i++) {
        GIVES(pycrew_run(crew, "api_ops:zeros", "i>y#", 40 << 20, &data, &size), -E2BIG);
        expect_error("zeros", -E2BIG, NULL, "the result exceeds the crew's shared memory");
        ASSERT(pycrew_last_error()->may_have_run);
        ASSERT(data == NULL && size == 77);
        expect_sound(crew);
    }
    pycrew_close(crew);
}

TEST(an_exception_gets_through_when_the_memory_is_used_up)
{
    enum { CALLS = 32 };
    pycrew_crew *crew = open_small(CALLS);
    pycrew_call *calls[CALLS];
    int count = 0, rc = 0;

    for (; count < CALLS - 1 && rc == 0;
         count++) { /* all is the worker's results, to the last block */
        calls[count] = SUBMIT(crew, "api_ops:zeros", "i", 900000);
        rc = pycrew_wait(calls[count], BOUND);
    }
    GIVES(rc, -ENOMEM);
    GIVES(pycrew_run(crew, "api_ops:fail", "ss>", "value", "said with no memory"), PYCREW_ERAISED);
    expect_error("fail", PYCREW_ERAISED, "ValueError", "said with no memory");
    while (count > 0)
        pycrew_release(calls[--count]);
    pycrew_close(crew);
}

TEST(the_holder_of_all_calls_is_told_so_at_once)
{
    enum { CALLS = 3 };
    pycrew_options options = test_options(1);
    const char *go = scratch("go");
    const pycrew_function *function;
    pycrew_call *calls[CALLS], *more = NULL;
    pycrew_crew *crew;

    options.calls = CALLS;
    crew = open_with(&options);
    function = function_of(crew, "api_ops:wait_for");
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < CALLS; i++)
            OK(pycrew_prepare(crew, function, 0, &calls[i]));
        for (int i = 0; i < 3; i++) { /* prepared, in flight, ended: they are in use */
            GIVES(pycrew_prepare(crew, function, 0, &more), -EAGAIN);
            GIVES(pycrew_prepare(crew, function, BOUND, &more), -EAGAIN);
            GIVES(pycrew_prepare(crew, function, PYCREW_FOREVER, &more), -EAGAIN);
            CONTAINS(pycrew_last_error()->message, "all 3 calls are in use");
            GIVES(pycrew_run(crew, "api_ops:nothing", ">"), -EAGAIN);
            ASSERT(more == NULL);
            for (int k = 0; k < CALLS && i == 0; k++) {
                OK(pycrew_add(calls[k], "s", go));
                OK(pycrew_submit(calls[k]));
            }
            fclose(fopen(go, "w"));
            for (int k = 0; k < CALLS && i == 1; k++)
                OK(pycrew_wait(calls[k], BOUND));
        }
        pycrew_release(calls[0]);
        expect_sound(crew);
        for (int i = 1; i < CALLS; i++)
            pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

/* A thread that asks for a call. */
typedef struct asker {
    pthread_t thread;
    pycrew_crew *crew;
    const pycrew_function *function;
    int64_t timeout_ns, woken_at;
    int rc;
    _Atomic int tid;
} asker;

static void *ask(void *data)
{
    asker *a = data;
    pycrew_call *call = NULL;

    atomic_store(&a->tid, (int)syscall(SYS_gettid));
    a->rc = pycrew_prepare(a->crew, a->function, a->timeout_ns, &call);
    a->woken_at = now_ns();
    pycrew_release(call);
    return NULL;
}

static void start_asker(asker *a, pycrew_crew *crew, int64_t timeout_ns)
{
    *a = (asker){
        .crew = crew, .function = function_of(crew, "api_ops:nothing"), .timeout_ns = timeout_ns};
    ASSERT_INT(pthread_create(&a->thread, NULL, ask, a), 0);
}

TEST(another_thread_waits_for_a_call_as_long_as_it_says)
{
    pycrew_options options = test_options(1);
    pycrew_call *held;
    pycrew_crew *crew;
    asker a;

    options.calls = 1;
    crew = open_with(&options);
    held = prepare(crew, "api_ops:nothing");
    start_asker(&a, crew, 0);
    pthread_join(a.thread, NULL);
    GIVES(a.rc, -EAGAIN);
    start_asker(&a, crew, 30 * MS);
    pthread_join(a.thread, NULL);
    GIVES(a.rc, -ETIME);
    pycrew_release(held);
    expect_sound(crew);
    pycrew_close(crew);
}

/* The first needs the second. After a call a worker spins, and for a spinner nobody else is woken:
 * so the one that takes the first has to hand on. Nobody waits here, who would look again. */
TEST(of_two_calls_at_a_time_neither_is_left_to_the_worker_that_runs_the_other)
{
    enum { ROUNDS = 150 };
    pycrew_crew *crew = open_crew(2);
    const char *path = scratch("second");

    for (int round = 0; round < ROUNDS; round++) {
        pycrew_call *first = prepare(crew, "api_ops:wait_for"), *second;

        second = prepare(crew, "api_ops:sleep");
        OK(pycrew_add(first, "s", path));
        OK(pycrew_add(second, "ds", 0.0, path));
        unlink(path);
        OK(pycrew_run(crew, "api_ops:nothing", ">"));
        OK(pycrew_submit(first));
        OK(pycrew_submit(second));
        AWAIT(file_size(path) >= 0);
        OK(pycrew_wait(first, BOUND));
        OK(pycrew_wait(second, BOUND));
        pycrew_release(first);
        pycrew_release(second);
    }
    pycrew_close(crew);
}

TEST(a_call_that_is_given_back_wakes_who_waits_for_one)
{
    enum { ROUNDS = 8 };
    pycrew_options options = test_options(1);
    int64_t fastest = INT64_MAX;
    pycrew_crew *crew;

    options.calls = 1;
    crew = open_with(&options);
    for (int i = 0; i < ROUNDS; i++) {
        pycrew_call *held = prepare(crew, "api_ops:nothing");
        int64_t released_at;
        asker a;

        start_asker(&a, crew, PYCREW_FOREVER);
        AWAIT(tap_is_asleep(atomic_load(&a.tid)));
        released_at = now_ns();
        pycrew_release(held);
        pthread_join(a.thread, NULL);
        OK(a.rc);
        if (a.woken_at - released_at < fastest)
            fastest = a.woken_at - released_at;
    }
    DIAG("woken after %lld us", (long long)(fastest / US));
    ASSERT(fastest < 50 * MS); /* it looks each 100 ms in any case */
    pycrew_close(crew);
}

/* ---- exceptions --------------------------------------------------------------------------------
 */

TEST(an_exception_comes_with_type_message_and_traceback)
{
    static const struct {
        const char *expression, *type, *message;
    } raised[] = {
        {"ValueError('no good')", "ValueError", "no good"},
        {"ValueError", "ValueError", ""},
        {"ValueError(1, 'b')", "ValueError", "(1, 'b')"},
        {"KeyError('k')", "KeyError", "'k'"},
        {"OSError(2, 'not there', 'file')", "FileNotFoundError", "[Errno 2] not there: 'file'"},
        {"OwnError.Inner('deep')", "call_ops.OwnError.Inner", "deep"},
        {"__import__('json').JSONDecodeError('bad', 'doc', 1)", "json.decoder.JSONDecodeError",
         "bad: line 1 column 2 (char 1)"},
        {"Base('a BaseException')", "call_ops.Base", "a BaseException"},
        {"SystemExit(3)", "SystemExit", "3"},
        {"KeyboardInterrupt", "KeyboardInterrupt", ""},
        {"GeneratorExit", "GeneratorExit", ""},
        {"StopIteration(7)", "StopIteration", "7"},
        {"StopAsyncIteration", "StopAsyncIteration", ""},
        {"MemoryError('not for you')", "MemoryError", "not for you"},
        {"Unpicklable()", "call_ops.Unpicklable", "has a lock"},
        {"Demanding(1, 2)", "call_ops.Demanding", "1 and 2"},
        {"pycrew.DeadlineExceeded('mine')", "pycrew.DeadlineExceeded", "mine"},
        {"ValueError('two\\nlines')", "ValueError", "two\nlines"},
        {"ValueError('\xc3\xa9\xe2\x82\xac\\U0001f600')", "ValueError",
         "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"ValueError('half \\ud800 of it')", "ValueError", "half \\ud800 of it"},
        {"ValueError('a NUL\\0, and \\ud800')", "ValueError", "a NUL\\x00, and \\ud800"},
        {"type('Half', (Exception,), {'__module__': 'm\\udcff'})('x')", "m\\udcff.Half", "x"},
        {"Mute()", "call_ops.Mute", "<exception str() failed>"},
        {"Quitting()", "call_ops.Quitting", "<exception str() failed>"},
        {"NotText()", "call_ops.NotText", "<exception str() failed>"},
        {"5", "TypeError", "exceptions must derive from BaseException"},
    };
    pycrew_crew *crew = open_crew(1);
    int before = 0, after = 0;

    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    for (size_t i = 0; i < COUNT(raised); i++) {
        const pycrew_error *e;

        GIVES(pycrew_run(crew, "call_ops:raise_it", "s>", raised[i].expression), PYCREW_ERAISED);
        e = pycrew_last_error();
        ASSERT_STR(e->type, raised[i].type);
        ASSERT_STR(e->message, raised[i].message);
        ASSERT_STR(e->function, "call_ops:raise_it");
        CONTAINS(e->traceback, "Traceback (most recent call last):\n");
        CONTAINS(e->traceback, "call_ops.py\", line ");
        CONTAINS(e->traceback, "in raise_it\n    raise eval(expression)\n");
        ASSERT(e->may_have_run && !e->out_of_memory);
        ASSERT_INT(e->attempts, 1);
        ASSERT_INT(e->signal, 0);
        ASSERT_INT(e->exit_status, 0);
        ASSERT_INT(e->size, sizeof *e);
    }
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after)); /* the same worker: none was ended by it */
    ASSERT_INT(after, before);
    pycrew_close(crew);
}

TEST(a_traceback_shows_what_led_to_the_exception)
{
    pycrew_crew *crew = open_crew(1);
    const char *traceback;

    GIVES(pycrew_run(crew, "call_ops:chain", ">"), PYCREW_ERAISED);
    expect_error("chain", PYCREW_ERAISED, "RuntimeError", "second");
    traceback = pycrew_last_error()->traceback;
    CONTAINS(traceback, "KeyError: 'first'");
    CONTAINS(traceback, "direct cause of the following exception");
    CONTAINS(traceback, "RuntimeError: second");
    GIVES(pycrew_run(crew, "call_ops:context", ">"), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->traceback, "During handling of the above exception");
    if (python_minor(crew) < 11) { /* groups are new in 3.11 */
        pycrew_close(crew);
        return;
    }
    GIVES(pycrew_run(crew, "call_ops:group", ">"), PYCREW_ERAISED);
    expect_error("group", PYCREW_ERAISED, "ExceptionGroup", "two of them (2 sub-exceptions)");
    CONTAINS(pycrew_last_error()->traceback, "ValueError: one");
    CONTAINS(pycrew_last_error()->traceback, "OwnError: two");
    GIVES(pycrew_run(crew, "call_ops:recurse", ">"), PYCREW_ERAISED);
    expect_error("recurse", PYCREW_ERAISED, "RecursionError", "maximum recursion depth exceeded");
    CONTAINS(pycrew_last_error()->traceback, "times]");
    expect_sound(crew);
    pycrew_close(crew);
}

static bool is_all(const char *text, const char *character, size_t size)
{
    size_t step = strlen(character);

    for (size_t i = 0; i < size; i += step)
        if (memcmp(text + i, character, step) != 0)
            return false;
    return true;
}

TEST(a_long_message_is_cut_between_two_characters)
{
    enum { CUT = 64 << 10 };
    static const char *const characters[] = {"x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    pycrew_crew *crew = open_crew(1);
    char expression[80];

    for (size_t i = 0; i < COUNT(characters); i++) {
        size_t step = strlen(characters[i]), whole = CUT - CUT % step;
        const pycrew_error *e;

        snprintf(expression, sizeof expression, "ValueError('%s' * 10_000_000)", characters[i]);
        GIVES(pycrew_run(crew, "call_ops:raise_it", "s>", expression), PYCREW_ERAISED);
        e = pycrew_last_error();
        ASSERT_STR(e->type, "ValueError");
        ASSERT_INT(strlen(e->message), whole);
        ASSERT(is_all(e->message, characters[i], whole));
        CONTAINS(e->traceback, "in raise_it");
        ASSERT(strlen(e->traceback) <= 256 << 10);
    }
    expect_sound(crew);
    pycrew_close(crew);
}

TEST(a_calls_error_lives_until_its_release)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = submit_value(crew, "1 / 0"), *other = submit_value(crew, "{}['k']");
    const pycrew_error *e;
    int value = 77;

    GIVES(pycrew_wait(call, BOUND), PYCREW_ERAISED);
    e = pycrew_call_error(call);
    GIVES(pycrew_wait(other, BOUND), PYCREW_ERAISED);
    expect_error("other", PYCREW_ERAISED, "KeyError", "'k'");
    GIVES(pycrew_run(crew, "", ">"), -EINVAL);
    ASSERT_INT(e->code, PYCREW_ERAISED);
    ASSERT_STR(e->type, "ZeroDivisionError");
    ASSERT_STR(e->message, "division by zero");
    ASSERT_STR(e->function, "call_ops:value");
    CONTAINS(e->traceback, "ZeroDivisionError: division by zero");
    GIVES(pycrew_wait(call, 0), PYCREW_ERAISED); /* and is told again as often as one asks */
    expect_error("again", PYCREW_ERAISED, "ZeroDivisionError", "division by zero");
    GIVES(pycrew_result(call, "i", &value), PYCREW_ERAISED);
    expect_error("result", PYCREW_ERAISED, "ZeroDivisionError", "division by zero");
    ASSERT_INT(pycrew_value_type(pycrew_result_value(call)), PYCREW_TYPE_INVALID);
    ASSERT_INT(value, 77);
    pycrew_release(call);
    pycrew_release(other);
    pycrew_close(crew);
}

/* ---- errors and threads ------------------------------------------------------------------------
 */

typedef struct failer {
    pthread_t thread;
    pycrew_crew *crew;
    int number;
} failer;

static void *fail_often(void *data)
{
    failer *f = data;
    char text[64], longer[2000];

    ASSERT_INT(pycrew_last_error()->code, 0); /* a new thread's */
    ASSERT_STR(pycrew_last_error()->message, "");
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "thread %d, time %d", f->number, i);
        memset(longer, 'a' + f->number, sizeof longer);
        longer[sizeof longer - 1] = '\0';
        GIVES(pycrew_run(f->crew, "api_ops:fail", "ss>", "value", i % 2 ? text : longer),
              PYCREW_ERAISED);
        sched_yield();
        ASSERT_STR(pycrew_last_error()->message, i % 2 ? text : longer);
        CONTAINS(pycrew_last_error()->traceback, i % 2 ? text : longer);
    }
    return NULL;
}

TEST(each_thread_has_the_errors_of_its_own_calls)
{
    enum { THREADS = 6 };
    pycrew_crew *crew = open_crew(2);
    failer failers[THREADS];

    for (int i = 0; i < THREADS; i++) {
        failers[i] = (failer){.crew = crew, .number = i};
        ASSERT_INT(pthread_create(&failers[i].thread, NULL, fail_often, &failers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(failers[i].thread, NULL);
    ASSERT_INT(pycrew_last_error()->code, 0);
    pycrew_close(crew);
}

TEST(a_call_may_be_handed_from_thread_to_thread)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:nothing");
    failer f = {.crew = crew};

    OK(pycrew_submit(call));
    ASSERT_INT(pthread_create(&f.thread, NULL, fail_often, &f), 0);
    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
    pthread_join(f.thread, NULL);
    pycrew_close(crew);
}

TEST(every_code_has_a_text_of_its_own)
{
    static const struct {
        int code;
        const char *text;
    } codes[] = {
#define CODE(name, value, text) {name, text},
        PYCREW_CODES(CODE)
#undef CODE
            {0, "no error"},
        {-ETIMEDOUT, "the call's deadline has passed"},
        {-ETIME, "this wait's time is up; what it waited for goes on"},
        {-ESHUTDOWN, "the crew takes no more calls"},
        {-ECANCELED, "the call was cancelled"},
        {-EINVAL, "Invalid argument"},
        {-ENOMEM, "Cannot allocate memory"},
        {-EMFILE, "Too many open files"},
        {-1999, "unknown code"},
        {-2006, "unknown code"},
        {INT_MIN, "unknown code"},
        {INT_MAX, "unknown code"},
    };

    for (size_t i = 0; i < COUNT(codes); i++)
        ASSERT_STR(pycrew_strerror(codes[i].code), codes[i].text);
    ASSERT_STR(pycrew_strerror(EINVAL), pycrew_strerror(-EINVAL));
    for (int code = -5000; code <= 5000; code++)
        ASSERT(pycrew_strerror(code)[0] != '\0');
}

TEST(a_result_of_another_type_says_that_the_function_has_run)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call;
    const char *text;
    int number;

    GIVES(pycrew_run(crew, "api_ops:add", "ii>s", 1, 2, &text), PYCREW_ETYPE);
    ASSERT(pycrew_last_error()->may_have_run);
    ASSERT_INT(pycrew_last_error()->attempts, 1);
    call = SUBMIT(crew, "api_ops:add", "LL", 1LL << 40, 0LL);
    OK(pycrew_wait(call, BOUND));
    GIVES(pycrew_result(call, "i", &number), -ERANGE);
    ASSERT(pycrew_last_error()->may_have_run);
    GIVES(pycrew_result_str(call, &text, NULL), PYCREW_ETYPE);
    ASSERT(pycrew_last_error()->may_have_run);
    ASSERT_INT(pycrew_last_error()->attempts, 1);
    pycrew_release(call);
    GIVES(pycrew_run(crew, "api_ops:add", "?>s", &text), -EINVAL); /* and here not */
    ASSERT(!pycrew_last_error()->may_have_run);
    pycrew_close(crew);
}

TAP_MAIN
