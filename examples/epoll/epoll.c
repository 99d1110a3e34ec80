#include <pycrew.h>
#include <stdio.h>
#include <sys/epoll.h>

int main(void)
{
    pycrew_options options = {.size = sizeof options, .path = (const char *[]){".", NULL}};
    int loop = epoll_create1(EPOLL_CLOEXEC);
    pycrew_crew *crew;
    pycrew_queue *done;
    const pycrew_function *answer;
    pycrew_call *call;
    const char *text;
    char line[256];
    if (pycrew_open(&crew, &options) < 0 || pycrew_queue_open(crew, &done) < 0 ||
        pycrew_function_get(crew, "epoll_ops:answer", &answer) < 0)
        return fprintf(stderr, "epoll: %s\n", pycrew_last_error()->message), 1;
    setvbuf(stdin, NULL, _IONBF, 0); /* what is read ahead, epoll does not see */
    epoll_ctl(loop, EPOLL_CTL_ADD, pycrew_queue_fd(done), &(struct epoll_event){.events = EPOLLIN});
    epoll_ctl(loop, EPOLL_CTL_ADD, 0, &(struct epoll_event){EPOLLIN, {.fd = 1}}); /* 1: input */
    for (struct epoll_event now; !feof(stdin) && epoll_wait(loop, &now, 1, -1) == 1;) {
        if (now.data.fd == 1 && pycrew_prepare(crew, answer, 0, &call) == 0 &&
            (fgets(line, sizeof line, stdin) == NULL || pycrew_add(call, "s", line) < 0 ||
             pycrew_set_queue(call, done) < 0 || pycrew_submit(call) < 0))
            pycrew_release(call); /* the end of the input, or no UTF-8 */
        if (feof(stdin))
            pycrew_drain(crew, PYCREW_FOREVER);
        for (; pycrew_queue_reap(done, &call, 1, 0) == 1; pycrew_release(call))
            puts(pycrew_result(call, "s", &text) == 0 ? text : pycrew_call_error(call)->message);
    }
    pycrew_close(crew);
}
