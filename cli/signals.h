/* signals: being asked to stop, and to report.
 *
 * Until signals_soften() SIGINT and SIGTERM end the command at once: while workers start there is
 * nothing to lose. After it the first asks to stop reading and finish what is in flight, the second
 * to kill, and the third ends the command whatever it is doing. One that was ignored when the
 * command started (nohup, a shell's "&") stays ignored. */
#ifndef CLI_SIGNALS_H
#define CLI_SIGNALS_H

#include <stdbool.h>

void signals_setup(void);
void signals_soften(void);

enum { STOP_NO, STOP_SOFTLY, STOP_NOW };
int signals_stop(void);

/* 130 or 143, by the first signal; 0: none came. */
int signals_exit_code(void);

/* Whether SIGUSR1 came since this was asked last. */
bool signals_report(void);

/* Waits until fd can be read (-1: just waits), a signal comes, or the time is up. Signals that came
 * before end it too: none is missed. true: fd can be read. timeout_ns < 0: for ever. */
bool signals_poll(int fd, long long timeout_ns);

#endif
