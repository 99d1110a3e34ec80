/* signals: being asked to stop, and to report. */
#include "cli/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "cli/console.h"

/* A handler may run in any thread, the crew's too. It only counts, and makes wake readable. */
static volatile sig_atomic_t soft, stops, first_signal, reports;
static int wake = -1;

static void on_stop(int number)
{
    if (!soft || stops >= STOP_NOW)
        _exit(128 + number);
    if (stops == 0)
        first_signal = number;
    stops = stops + 1;
    int saved = errno;
    (void)!write(wake, &(uint64_t){1}, sizeof(uint64_t));
    errno = saved;
}

static void on_report(int number)
{
    (void)number;
    reports = 1;
    int saved = errno;
    (void)!write(wake, &(uint64_t){1}, sizeof(uint64_t));
    errno = saved;
}

/* No SA_RESTART: a write to a pipe that nobody empties must come back to see what is asked. */
static void handle(int number, void (*handler)(int))
{
    struct sigaction old, action = {.sa_handler = handler};
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaddset(&action.sa_mask, SIGUSR1);
    if (sigaction(number, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
        sigaction(number, &action, NULL);
}

void signals_setup(void)
{
    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake < 0)
        die(3, "eventfd: no descriptor is free");
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is write's error, and a quiet end */
    handle(SIGINT, on_stop);
    handle(SIGTERM, on_stop);
    handle(SIGUSR1, on_report);
}

void signals_soften(void)
{
    soft = 1;
}

int signals_stop(void)
{
    return (int)stops;
}

int signals_exit_code(void)
{
    return first_signal ? 128 + (int)first_signal : 0;
}

bool signals_report(void)
{
    bool asked = reports != 0;
    reports = 0;
    return asked;
}

bool signals_poll(int fd, long long timeout_ns)
{
    struct pollfd fds[2] = {{.fd = wake, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    int ready = ppoll(fds, 2, timeout_ns < 0 ? NULL : &timeout, NULL);
    if (ready <= 0)
        return false;
    uint64_t count;
    if (fds[0].revents != 0)
        (void)!read(wake, &count, sizeof(count));
    return fds[1].revents != 0;
}
