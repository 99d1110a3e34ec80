#include <pycrew.h>
#include <stdio.h>

static const char text[] = "from math import sqrt\n"
                           "\n"
                           "def root_of_sum(x, y):\n"
                           "    return sqrt(x + y)\n";

static int show(pycrew_crew *crew, const pycrew_function *function, double x, double y)
{
    pycrew_call *call;
    double root;
    int rc = pycrew_prepare(crew, function, PYCREW_FOREVER, &call);
    if (rc < 0)
        return rc;
    if ((rc = pycrew_add(call, "dd", x, y)) == 0 && (rc = pycrew_submit(call)) == 0 &&
        (rc = pycrew_wait(call, PYCREW_FOREVER)) == 0 && (rc = pycrew_result(call, "d", &root)) == 0)
        printf("%g\n", root);
    else if (rc == PYCREW_ERAISED) /* the traceback shows the text's lines */
        fputs(pycrew_call_error(call)->traceback, stdout);
    pycrew_release(call);
    return rc;
}

int main(void)
{
    pycrew_crew *crew = NULL;
    const pycrew_function *function;
    int rc = pycrew_open(&crew, NULL);
    if (rc == 0)
        rc = pycrew_function_source(crew, "root_of_sum", text, &function);
    if (rc == 0 && (rc = show(crew, function, 9, 16)) == 0)
        rc = show(crew, function, 9, -25);
    if (rc < 0 && rc != PYCREW_ERAISED)
        fprintf(stderr, "source: %s\n", pycrew_last_error()->message);
    pycrew_close(crew);
    return rc != PYCREW_ERAISED;
}
