/* options.trace: the file is read by tests/py/trace_check.py, which checks what holds for every
 * trace. */
#include "tests/harness/crew.h"

#include <stdlib.h>

/* The file of the crew with these options; its path. */
static const char *traced(pycrew_options *options, unsigned workers)
{
    const char *path = scratch("trace.json");

    *options = test_options(workers);
    options->trace = path;
    return path;
}

static pycrew_crew *open_traced(unsigned workers, const char **path)
{
    pycrew_options options;

    *path = traced(&options, workers);
    return open_with(&options);
}

static void check(const char *flags, const char *path, const char *expressions)
{
    char command[4000];
    const char *python = getenv("PYTHON");

    snprintf(command, sizeof command, "'%s' '%s/tests/py/trace_check.py' %s '%s' %s",
             python != NULL ? python : "python3", source_directory(), flags, path, expressions);
    ASSERT_INT(system(command), 0);
}

static void call_add(pycrew_crew *crew, int times)
{
    int sum;

    for (int i = 0; i < times; i++)
        OK(pycrew_run(crew, "api_ops:add", "ii>i", i, 1, &sum));
}

/* ---- calls ---- */

TEST(each_call_is_once_in_its_workers_track)
{
    const char *path;
    pycrew_crew *crew = open_traced(2, &path);
    pycrew_call *calls[50];

    call_add(crew, 100);
    for (int i = 0; i < 50; i++)
        calls[i] = SUBMIT(crew, "api_ops:add", "ii", i, 1);
    for (int i = 0; i < 50; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    GIVES(pycrew_run(crew, "api_ops:fail", ""), PYCREW_ERAISED);
    pycrew_close(crew);
    check(
        "", path,
        "'len(calls) == 151' 'len({c[\"args\"][\"call\"] for c in calls}) == 151' 'lost == 0' "
        "'[c[\"args\"][\"result\"] for c in calls if c[\"name\"] == \"api_ops:fail\"] == "
        "[\"raised\"]' "
        "'all(c[\"args\"][\"attempt\"] == 1 for c in calls)' '1 <= len(named(\"worker starts\")) <= 2' "
        "'named(\"worker ends\")' 'not named(\"worker dies\")'");
}

TEST(a_call_whose_worker_dies_ends_at_the_death_and_is_there_again)
{
    pycrew_options options;
    const char *path = traced(&options, 1), *notes = scratch("notes");
    pycrew_crew *crew;

    options.retries = 1;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:die_until", "si", notes, 1));
    GIVES(pycrew_run(crew, "api_ops:die_by", "s", "exit"), PYCREW_EDIED);
    pycrew_close(crew);
    check("", path,
          "'[(c[\"args\"][\"attempt\"], c[\"args\"][\"result\"]) for c in calls] == "
          "[(1, \"died\"), (2, \"returned\"), (1, \"died\"), (2, \"died\")]' "
          "'len({c[\"args\"][\"call\"] for c in calls}) == 2' 'len(named(\"worker dies\")) == 3' "
          "'len(named(\"retry\")) == 2' 'len(named(\"worker starts\")) >= 3' "
          "'named(\"worker dies\")[0][\"ts\"] == calls[0][\"ts\"] + calls[0][\"dur\"] or "
          "abs(named(\"worker dies\")[0][\"ts\"] - calls[0][\"ts\"] - calls[0][\"dur\"]) < 0.01' "
          "'named(\"worker dies\")[0][\"args\"][\"signal\"] == 9'");
}

TEST(a_call_that_is_killed_at_its_deadline_is_marked)
{
    const char *path;
    pycrew_crew *crew = open_traced(1, &path);
    pycrew_call *call = prepare(crew, "api_ops:swallow");

    call_add(crew, 1); /* the module is imported */
    OK(pycrew_set_timeout(call, 200 * MS));
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), -ETIMEDOUT);
    pycrew_release(call);
    pycrew_close(crew);
    check("", path,
          "'[c[\"args\"][\"result\"] for c in calls] == [\"returned\", \"died\"]' "
          "'[k[\"args\"] for k in named(\"kill\")] == [{\"function\": \"api_ops:swallow\", "
          "\"call\": calls[1][\"args\"][\"call\"], \"why\": \"deadline\"}]' "
          "'named(\"worker dies\")[0][\"args\"][\"killed\"]' "
          "'calls[1][\"ts\"] < named(\"kill\")[0][\"ts\"] <= named(\"worker dies\")[0][\"ts\"]'");
}

TEST(a_call_that_waits_is_seen_to_queue)
{
    const char *path, *go = scratch("go");
    pycrew_crew *crew = open_traced(1, &path);
    pycrew_call *first = SUBMIT(crew, "api_ops:wait_for", "s", go);
    pycrew_call *second = SUBMIT(crew, "api_ops:add", "ii", 1, 2);
    pycrew_call *third = SUBMIT(crew, "api_ops:add", "ii", 1, 2);

    OK(pycrew_cancel(third));
    pause_ns(5 * MS);
    fclose(fopen(go, "w"));
    OK(pycrew_wait(first, BOUND));
    OK(pycrew_wait(second, BOUND));
    GIVES(pycrew_wait(third, BOUND), -ECANCELED);
    pycrew_release(first);
    pycrew_release(second);
    pycrew_release(third);
    pycrew_close(crew);
    check("", path,
          "'len(calls) == 2' 'calls[1][\"args\"][\"queued_us\"] >= 5000' "
          "'calls[1][\"args\"][\"call\"] in {q[\"id\"] for q in queued}' "
          "'[e[\"args\"] for e in events if e[\"ph\"] == \"e\" and e[\"args\"]] == [{\"code\": "
          "-125}]'");
}

TEST(coroutines_of_a_worker_have_tracks_beside_each_other)
{
    const char *path;
    pycrew_crew *crew = open_traced(1, &path);
    pycrew_call *calls[3];

    for (int i = 0; i < 3; i++)
        calls[i] = SUBMIT(crew, "async_ops:sleep", "d", 0.05);
    for (int i = 0; i < 3; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    pycrew_close(crew);
    check("", path, "'len(calls) == 3' 'all(c[\"dur\"] >= 50000 for c in calls)' 'lost == 0'");
}

/* ---- batches ---- */

TEST(chunks_of_a_batch_have_their_items_also_where_one_dies)
{
    pycrew_options options;
    const char *path = traced(&options, 2), *notes = scratch("notes");
    pycrew_crew *crew;
    pycrew_batch *batch;

    options.retries = 1;
    crew = open_with(&options);
    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:echo_or_die_until"), NULL, &batch));
    for (int i = 0; i < 300; i++)
        OK(pycrew_batch_add(batch, "iisi", i, 150, notes, 1));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 300; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        ASSERT(pycrew_batch_error(batch) == NULL);
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
    check("", path,
          "'not calls' 'len([c for c in chunks if c[\"args\"][\"result\"] == \"died\"]) == 1' "
          "'len(named(\"retry\")) == 1' 'len(named(\"worker dies\")) == 1' "
          "'sorted(c[\"args\"][\"attempt\"] for c in chunks)[-2:] == [1, 2]' "
          /* each item once: those of the chunk that died are some there, and the rest in its second
             attempt */
          "'0 <= 300 - sum(c[\"args\"][\"ended\"] for c in chunks if \"ended\" in c[\"args\"]) < "
          "[c for c in chunks if c[\"args\"][\"result\"] == \"died\"][0][\"args\"][\"items\"]'");
}

/* ---- other events ---- */

TEST(a_reload_is_marked)
{
    const char *path;
    pycrew_crew *crew = open_traced(1, &path);

    call_add(crew, 1);
    OK(pycrew_reload(crew, BOUND));
    call_add(crew, 1);
    pycrew_close(crew);
    check("", path,
          "'len(calls) == 2' 'len(named(\"reload begins\")) == len(named(\"reload ends\")) == 1' "
          "'len(named(\"worker starts\")) == 2'");
}

/* ---- the file ---- */

TEST(a_file_that_cannot_be_written_is_open_s_error)
{
    static const struct {
        const char *path;
        int code;
        const char *message;
    } cases[] = {
        {"/nowhere/trace.json", -ENOENT, "options.trace: /nowhere/trace.json: No such file"},
        {"/tmp", -EISDIR, "options.trace: /tmp: Is a directory"},
        {"", -EINVAL, "options.trace is an empty string"}};
    pycrew_options options = test_options(1);
    pycrew_crew *crew = NULL;

    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        options.trace = cases[i].path;
        GIVES(pycrew_open(&crew, &options), cases[i].code);
        CONTAINS(pycrew_last_error()->message, cases[i].message);
        ASSERT(crew == NULL);
    }
}

static _Atomic int told;

static void note_log(void *data, int level, const char *line)
{
    (void)data;
    if (level == PYCREW_LOG_ERROR &&
        strstr(line, "the trace (options.trace) cannot be written") != NULL &&
        strstr(line, "No space left") != NULL)
        atomic_fetch_add(&told, 1);
}

TEST(a_full_disk_is_told_once_and_calls_go_on)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.trace = "/dev/full";
    options.log = note_log;
    crew = open_with(&options);
    for (int64_t until = now_ns() + BOUND; atomic_load(&told) == 0 && now_ns() < until;)
        call_add(crew, 1);
    call_add(crew, 100);
    pycrew_close(crew);
    ASSERT_INT(atomic_load(&told), 1);
}

static void *copy_pipe(void *data)
{
    int *fds = data;
    char bytes[4096];
    ssize_t size;

    while ((size = read(fds[0], bytes, sizeof bytes)) > 0)
        ASSERT_INT(write(fds[1], bytes, (size_t)size), size);
    return NULL;
}

/* The thread that writes waits for a pipe; calls do not. */
TEST(what_has_no_room_is_counted_and_nobody_waits)
{
    enum { CALLS = 20000 };
    const char *path = scratch("trace.json");
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    pthread_t reader;
    char name[64], expressions[200];
    int ends[2], copy[2];

    ASSERT_INT(pipe2(ends, O_CLOEXEC), 0);
    snprintf(name, sizeof name, "/proc/self/fd/%d", ends[1]);
    options.trace = name;
    crew = open_with(&options);
    close(ends[1]);
    call_add(crew, CALLS);
    copy[0] = ends[0];
    copy[1] = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_INT(pthread_create(&reader, NULL, copy_pipe, copy), 0);
    pycrew_close(crew);
    ASSERT_INT(pthread_join(reader, NULL), 0);
    close(copy[0]);
    close(copy[1]);
    snprintf(expressions, sizeof expressions,
             "'lost > 0' 'lost + len(calls) == %d' "
             "'sum(e[\"args\"][\"calls\"] for e in named(\"not traced: too many calls\")) == lost'",
             CALLS);
    check("", path, expressions);
}

/* The end that is read. */
static int open_into_pipe(pycrew_crew **crew)
{
    pycrew_options options = test_options(1);
    char name[64];
    int ends[2];

    ASSERT_INT(pipe2(ends, O_CLOEXEC), 0);
    snprintf(name, sizeof name, "/proc/self/fd/%d", ends[1]);
    options.trace = name;
    *crew = open_with(&options);
    close(ends[1]);
    return ends[0];
}

TEST(a_reader_that_is_gone_at_the_end_is_no_signal)
{
    for (int i = 0; i < 10; i++) {
        pycrew_crew *crew;
        int reader = open_into_pipe(&crew);

        call_add(crew, 1);
        close(reader);
        pycrew_close(crew);
    }
}

TEST(a_reader_that_takes_nothing_holds_up_the_end_for_a_second_or_two)
{
    pycrew_crew *crew;
    int reader = open_into_pipe(&crew);
    int64_t begun;

    call_add(crew, 2000);
    begun = now_ns();
    pycrew_close(crew);
    ASSERT(now_ns() - begun < 20 * SECOND);
    close(reader);
}

TEST(a_host_that_is_killed_leaves_all_but_the_bracket)
{
    const char *path = scratch("trace.json");
    pid_t host = fork();
    int status;

    if (host == 0) {
        pycrew_options options = test_options(1);
        pycrew_crew *crew;

        options.trace = path;
        if (pycrew_open(&crew, &options) < 0)
            _exit(1);
        for (;;) {
            int sum;

            if (pycrew_run(crew, "api_ops:add", "ii>i", 1, 2, &sum) < 0)
                _exit(2);
            if (file_size(path) > 100000)
                raise(SIGKILL);
        }
    }
    ASSERT_INT(waitpid(host, &status, 0), host);
    ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    check("--cut", path, "'len(calls) > 100' 'lost is None'");
}

TEST(a_fork_that_closes_the_crew_leaves_the_trace_alone)
{
    const char *path;
    pycrew_crew *crew = open_traced(1, &path);
    pid_t child;
    int status;

    call_add(crew, 10);
    child = fork();
    if (child == 0) {
        pycrew_close(crew);
        _exit(0);
    }
    ASSERT_INT(waitpid(child, &status, 0), child);
    ASSERT_INT(status, 0);
    call_add(crew, 10);
    pycrew_close(crew);
    check("", path, "'len(calls) == 20' 'lost == 0'");
}

TAP_MAIN
